/**
 * What `muster completion <shell>` prints. Each script asks `muster completion words -- <words…>`, which answers a line
 * `word<TAB>description` for each candidate, or `:files` where the shell shall complete files.
 */

const bash = String.raw`# Completion of muster for bash. Use: source <(muster completion bash)
_muster() {
  # Words as typed: bash itself would split "type:collector" and "key=value".
  local line="${"$"}{COMP_LINE:0:COMP_POINT}" words candidates cur
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  cur="${"$"}{words[${"$"}{#words[@]}-1]}"
  candidates="$("${"$"}{words[0]}" completion words -- "${"$"}{words[@]:1}" 2>/dev/null)"
  COMPREPLY=()
  if [[ $candidates == :files ]]; then
    compopt -o filenames 2>/dev/null
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$cur")
    return
  fi
  # Readline replaces only what follows the last of these characters.
  local head=""
  [[ $cur == *[:=]* ]] && head="${"$"}{cur%"${"$"}{cur##*[:=]}"}"
  while IFS=$'\t' read -r word _; do
    [[ -n $word ]] && COMPREPLY+=("${"$"}{word#"$head"}")
  done <<<"$candidates"
}
complete -F _muster muster
`;

const zsh = String.raw`#compdef muster
# Completion of muster for zsh. Use: source <(muster completion zsh)
_muster() {
  local -a found
  local candidates word description
  candidates="$("${"$"}{words[1]}" completion words -- "${"$"}{(@)words[2,CURRENT]}" 2>/dev/null)"
  if [[ $candidates == :files ]]; then
    _files
    return
  fi
  while IFS=$'\t' read -r word description; do
    # A colon parts the word from its description.
    [[ -n $word ]] && found+=("${"$"}{word//:/\\:}:$description")
  done <<<"$candidates"
  _describe -t muster muster found
}
if [[ "${"$"}{funcstack[1]}" == _muster ]]; then _muster "$@"; else compdef _muster muster; fi
`;

const fish = String.raw`# Completion of muster for fish. Use: muster completion fish | source
function __muster_complete
  set -l words (commandline -opc) (commandline -ct)
  set -l found ($words[1] completion words -- $words[2..-1] 2>/dev/null)
  if test "$found" = ":files"
    __fish_complete_path (commandline -ct)
  else if test (count $found) -gt 0
    printf '%s\n' $found
  end
end
complete -c muster -f -a '(__muster_complete)'
`;

export const completionScripts = { bash, zsh, fish };
