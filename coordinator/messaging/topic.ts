/**
 * Topic patterns as RabbitMQ's topic exchange has them: words between dots, `*` for one word, `#` for any number. Takes
 * pattern times topic steps at most, for both come from outside.
 */
export function matchesTopic(pattern: string, topic: string): boolean {
  const words = topic.split(".");
  // matched[n]: the pattern so far matches the first n words.
  let matched = words.map(() => false);
  matched.push(false);
  matched[0] = true;
  for (const wanted of pattern.split(".")) {
    const next = matched.map(() => false);
    for (let n = 0; n <= words.length; n += 1) {
      if (wanted === "#") next[n] = matched[n] === true || (n > 0 && next[n - 1] === true);
      else next[n] = n > 0 && matched[n - 1] === true && (wanted === "*" || wanted === words[n - 1]);
    }
    matched = next;
  }
  return matched[words.length] === true;
}
