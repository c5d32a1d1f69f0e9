/** Topic patterns as RabbitMQ's topic exchange has them: words between dots, `*` for one word, `#` for any number. */
export function matchesTopic(pattern: string, topic: string): boolean {
  return matches(pattern.split("."), 0, topic.split("."), 0);
}

function matches(pattern: string[], p: number, words: string[], w: number): boolean {
  if (p === pattern.length) return w === words.length;
  const wanted = pattern[p];
  if (wanted === "#") {
    // Two in a row match what one does; skipping them keeps a hostile pattern from growing the search.
    if (pattern[p + 1] === "#") return matches(pattern, p + 1, words, w);
    for (let end = w; end <= words.length; end += 1) if (matches(pattern, p + 1, words, end)) return true;
    return false;
  }
  return w < words.length && (wanted === "*" || wanted === words[w]) && matches(pattern, p + 1, words, w + 1);
}
