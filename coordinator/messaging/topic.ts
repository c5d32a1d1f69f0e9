import { MusterError } from "../../config-db/errors.ts";

/**
 * RabbitMQ tries every way to split a topic between the `#` of a pattern, while the channel that publishes waits. For a topic
 * of 128 words, the longest, 3.10.8 took 1 ms with one `#`, 40 ms with two, 0.8 s with three, and for one of 100 words 13 s
 * with four. With eight words none of these took a millisecond more.
 */
const manyWordsMax = 2;

/**
 * A pattern that matches the same and that the broker can be asked for: of neighbouring `*` and `#` one `#` is left, behind.
 * @throws MusterError `invalid-request` when more than two `#` are left.
 */
export function bindableTopic(pattern: string): string {
  const words: string[] = [];
  let isMany = false;
  const end = () => {
    if (isMany) words.push("#");
    isMany = false;
  };
  for (const word of pattern.split(".")) {
    if (word === "#") {
      isMany = true;
      continue;
    }
    if (word !== "*") end();
    words.push(word);
  }
  end();
  const many = words.filter((word) => word === "#").length;
  if (many > manyWordsMax)
    throw new MusterError(
      "invalid-request",
      `the topic pattern "${pattern.slice(0, 100)}" has ${many} "#" apart from each other, and at most ${manyWordsMax} are ` +
        "taken: ask for more with fewer, and look through it",
    );
  return words.join(".");
}

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
