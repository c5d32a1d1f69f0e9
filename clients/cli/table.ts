/**
 * Tables as `ps` and `kubectl` draw them: columns apart by blanks, no borders, so that awk and grep work on them.
 * The libraries at hand (cli-table3, table) draw boxes and wrap cells into several lines; only the width of a
 * character is hard, and that is string-width's.
 */
import { stripVTControlCharacters } from "node:util";
import stringWidth from "string-width";
import { plain, type Style } from "./style.ts";

export interface Column<Row> {
  title: string;
  /** The cell as it is to be read, without colours. Empty shows as "-". */
  of(row: Row): string | number | undefined;
  paint?(cell: string, row: Row): string;
  align?: "right";
  /** Left out when no row has it. */
  optional?: boolean;
}

const gap = "  ";

/** @param columns width of the terminal, undefined for a file or pipe: then nothing is cut. */
export function table<Row>(shape: Column<Row>[], rows: Row[], style: Style, columns?: number): string {
  const texts = rows.map((row) => shape.map((column) => plain(String(column.of(row) ?? ""))));
  const given = shape
    .map((column, index) => ({ column, cells: texts.map((row) => row[index] ?? "") }))
    .filter(({ column, cells }) => column.optional !== true || cells.some((cell) => cell !== ""))
    .map(({ column, cells }) => ({ column, cells, width: widest([column.title, ...cells]) }));
  const shown = columns === undefined ? given : fitting(given, columns);
  const line = (
    cells: { text: string; width: number; align?: "right" | undefined; paint?: (text: string) => string }[],
  ) =>
    cells
      .map(({ text, width, align, paint = (same) => same }) => {
        const space = " ".repeat(Math.max(0, width - stringWidth(text)));
        return align === "right" ? space + paint(text) : paint(text) + space;
      })
      .join(gap)
      .trimEnd();
  const head = line(
    shown.map(({ column, width }) => ({
      text: column.title,
      width,
      align: column.align,
      paint: style.bold,
    })),
  );
  const body = rows.map((row, number) =>
    line(
      shown.map(({ column, cells, width }) => {
        const text = cells[number] === "" ? "-" : (cells[number] ?? "-");
        const paint = text === "-" ? style.dim : (cell: string) => column.paint?.(cell, row) ?? cell;
        return { text, width, align: column.align, paint };
      }),
    ),
  );
  return [head, ...body].map((text) => (columns === undefined ? text : cut(text, columns))).join("\n");
}

function widest(texts: string[]): number {
  return texts.reduce((width, text) => Math.max(width, stringWidth(text)), 1);
}

/** A column of which less than this could be seen says nothing. */
const visibleMin = 8;

/** Without the optional columns at the end that would not be seen. */
function fitting<Shown extends { column: { optional?: boolean }; width: number }>(
  shown: Shown[],
  columns: number,
): Shown[] {
  const last = shown.at(-1);
  if (last?.column.optional !== true) return shown;
  const before = shown.slice(0, -1).reduce((sum, { width }) => sum + width + gap.length, 0);
  return before + Math.min(last.width, visibleMin) <= columns ? shown : fitting(shown.slice(0, -1), columns);
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: colours are control sequences
const sgr = /(\u001b\[[0-9;]*m)/;

/** Cuts a line, colours and all, to a terminal's width. */
export function cut(text: string, columns: number): string {
  if (stringWidth(text) <= columns) return text;
  const pieces = text.split(sgr);
  let room = columns - 1;
  let kept = "";
  for (const piece of pieces) {
    if (piece.startsWith("\u001b[")) {
      kept += piece;
      continue;
    }
    for (const character of stripVTControlCharacters(piece)) {
      room -= stringWidth(character);
      if (room >= 0) kept += character;
    }
  }
  return `${kept}…`;
}

/** Names and values below each other, as a record's details. Values that are undefined or empty are left out. */
export function details(rows: [name: string, value: string | undefined][], style: Style): string {
  const given = rows.filter(([, value]) => value !== undefined && value !== "");
  const width = Math.max(...given.map(([name]) => name.length));
  return given.map(([name, value]) => `${style.dim(name.padEnd(width))}  ${value}`).join("\n");
}

/** "3 components", "1 component". */
export function count(amount: number, one: string, many = `${one}s`): string {
  return `${amount} ${amount === 1 ? one : many}`;
}

/** RFC 3339 as people read it, still UTC, to the second. */
export function moment(timestamp: string | undefined): string {
  return timestamp === undefined ? "" : timestamp.replace("T", " ").replace(/\.\d+/, "");
}

/** Milliseconds as people say them: 850 ms, 12 s, 5 min, 3 h, 2 d. */
export function duration(ms: number | undefined): string {
  if (ms === undefined) return "";
  const units: [string, number][] = [
    ["d", 86_400_000],
    ["h", 3_600_000],
    ["min", 60_000],
    ["s", 1_000],
  ];
  const [unit, size] = units.find(([, length]) => ms >= length * 2) ?? ["ms", 1];
  return `${Math.round(ms / size)} ${unit}`;
}
