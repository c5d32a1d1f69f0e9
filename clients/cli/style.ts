/** Colours, and making text from elsewhere fit to be shown: it may hold escapes that would take over the terminal. */
import { styleText } from "node:util";

type Format = "bold" | "dim" | "red" | "green" | "yellow" | "cyan" | "magenta";
export type Style = Record<Format, (text: string) => string>;

const formats: Format[] = ["bold", "dim", "red", "green", "yellow", "cyan", "magenta"];

export function style(colored: boolean): Style {
  // The stream is judged by wantsColor: styleText would look at the process's own.
  const paint = (format: Format) => (text: string) =>
    colored && text !== "" ? styleText(format, text, { validateStream: false }) : text;
  return Object.fromEntries(formats.map((format) => [format, paint(format)])) as Style;
}

/** On one line, control characters as visible escapes. */
export function plain(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what this takes out
  return text.replaceAll(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, (character) => {
    const short = { "\n": "\\n", "\t": "\\t", "\r": "\\r" }[character];
    return short ?? `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
}

/** JSON that is safe in a terminal: JSON.stringify itself leaves the C1 control characters as they are. */
export function jsonText(value: unknown, indent?: number): string {
  return (JSON.stringify(value, undefined, indent) ?? "null").replaceAll(/[\u007f-\u009f]/g, (character) => {
    return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
}

/** Indented JSON, its keys, texts and other values told apart by colour. */
export function coloredJson(value: unknown, { cyan, green, yellow }: Style): string {
  const token = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
  return jsonText(value, 2).replaceAll(token, (text, quoted?: string, colon?: string) => {
    if (quoted === undefined) return yellow(text);
    return colon === undefined ? green(quoted) : cyan(quoted) + colon;
  });
}

/** One value in a cell or a line of prose. */
export function short(value: unknown, charactersMax = 60): string {
  const text = value === undefined ? "" : jsonText(value);
  return text.length <= charactersMax ? text : `${text.slice(0, charactersMax - 1)}…`;
}
