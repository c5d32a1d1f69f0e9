/**
 * Side-by-side measurement. A row is one piece of work done by the subject (Muster) and by peers (the raw engine, a
 * rival), in one run on one machine, their rounds interleaved so that a noisy minute hits all. Only ratios are trusted:
 * the median over rounds of each figure, then subject against peer.
 */
import { execFileSync } from "node:child_process";
import { cpus, totalmem } from "node:os";

/** What one round gave: figure name (unit last: `opsPerSecond`, `p50Ms`) to value. */
export type Figures = Record<string, number>;

export interface Contender {
  name: string;
  /** One round. It may be called several times; the first call of each is a warm-up and does not count. */
  measure(): Promise<Figures>;
}

export interface Row {
  /** What is done, and with what load: the title of the printed table. */
  work: string;
  /** The figure that is compared, and whether more or less of it is better. */
  figure: string;
  better: "higher" | "lower";
  /** The target as a ratio of the subject's figure to the first peer's: `>= 3` or `<= 1.2`. */
  targetRatio?: number;
  /** A limit on the subject's figure itself. */
  targetValue?: number;
  rounds?: number;
  /** Brings the systems up; its contenders are the subject first, then peers. */
  setUp(): Promise<{ contenders: Contender[]; tearDown(): Promise<void> }>;
}

export interface RowResult {
  row: Row;
  medians: { name: string; figures: Figures }[];
  ratio: number | undefined;
  met: boolean;
}

export function median(values: number[]): number {
  return quantile(values, 0.5);
}

/** The value below which a share `q` of `values` lies (nearest rank). NaN for none. */
export function quantile(values: number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(q * sorted.length) - 1))] ?? Number.NaN;
}

/** Latencies in milliseconds as the figures of a round. */
export function latencyFigures(latenciesMs: number[]): Figures {
  return { p50Ms: quantile(latenciesMs, 0.5), p99Ms: quantile(latenciesMs, 0.99), maxMs: Math.max(...latenciesMs) };
}

export async function runRow(row: Row, say: (line: string) => void = console.log): Promise<RowResult> {
  say(`\n${row.work}`);
  const { contenders, tearDown } = await row.setUp();
  try {
    const rounds = new Map<string, Figures[]>(contenders.map(({ name }) => [name, []]));
    for (let round = -1; round < (row.rounds ?? 5); round++) {
      // Who goes first changes from round to round: caches and clocks favour neither.
      const order = round % 2 === 0 ? contenders : [...contenders].reverse();
      for (const contender of order) {
        const figures = await contender.measure();
        if (round >= 0) rounds.get(contender.name)?.push(figures);
      }
    }
    const medians = [...rounds].map(([name, all]) => ({ name, figures: mediansOf(all) }));
    return report(row, medians, say);
  } finally {
    await tearDown();
  }
}

function mediansOf(rounds: Figures[]): Figures {
  const names = Object.keys(rounds[0] ?? {});
  return Object.fromEntries(names.map((name) => [name, median(rounds.map((figures) => figures[name] ?? Number.NaN))]));
}

function report(row: Row, medians: RowResult["medians"], say: (line: string) => void): RowResult {
  for (const { name, figures } of medians) {
    const told = Object.entries(figures).map(([figure, value]) => `${figure} ${shown(value)}`);
    say(`  ${name.padEnd(34)} ${told.join("  ")}`);
  }
  const [subject, peer] = medians.map(({ figures }) => figures[row.figure] ?? Number.NaN);
  const ratio = subject === undefined || peer === undefined ? undefined : subject / peer;
  const fits = (value: number | undefined, target: number | undefined) =>
    target === undefined || (value !== undefined && (row.better === "higher" ? value >= target : value <= target));
  const met = fits(ratio, row.targetRatio) && fits(subject, row.targetValue);
  const sign = row.better === "higher" ? ">=" : "<=";
  const targets = [
    ...(row.targetRatio === undefined ? [] : [`ratio ${sign} ${row.targetRatio}`]),
    ...(row.targetValue === undefined ? [] : [`${row.figure} ${sign} ${row.targetValue}`]),
  ];
  const told = targets.length === 0 ? "" : `, target ${targets.join(" and ")}: ${met ? "met" : "MISSED"}`;
  say(`  → ${row.figure}: ${ratio === undefined ? shown(subject ?? Number.NaN) : `ratio ${ratio.toFixed(2)}`}${told}`);
  return { row, medians, ratio, met };
}

function shown(value: number): string {
  if (value >= 100) return Math.round(value).toLocaleString("en");
  return value.toPrecision(3);
}

/** One line about the machine, for the top of every report. */
export function machine(): string {
  const [cpu] = cpus();
  const kernel = execFileSync("uname", ["-sr"]).toString().trim();
  return `${cpus().length} × ${cpu?.model ?? "cpu"}, ${Math.round(totalmem() / 2 ** 30)} GiB, ${kernel}, Node ${process.version}`;
}
