/** One thing that `npm test` runs: a tool of this repository, or mocha on test files. */
export interface Step {
  name: string;
  heading: string;
  /** Arguments for Node. */
  tool?: string[];
  /** A folder whose `*.test.ts` mocha runs, or single test files. */
  tests?: string[];
  /** Mocha processes that share the files: these tests wait for other processes most of the time. Default 1. */
  processes?: number;
}

/** In the order in which they are run: what fails fastest comes first, and unit tests explain what fails later. */
export const steps: Step[] = [
  { name: "lint", heading: "Lint and format", tool: ["node_modules/.bin/biome", "check"] },
  { name: "types", heading: "Types", tool: ["node_modules/.bin/tsc", "-p", "."] },
  {
    name: "generated",
    heading: "Generated files are fresh",
    tool: ["--import", "tsx", "scripts/generate.ts", "--check"],
  },
  { name: "unit", heading: "Unit tests", tests: ["test/unit"] },
  { name: "integration", heading: "Integration tests", tests: ["test/integration"], processes: 2 },
  { name: "faults", heading: "Fault tests", tests: ["test/faults"], processes: 3 },
];

/** Deals `items` out, one to each share in turn; none is empty. */
export function deal<Item>(items: Item[], shares: number): Item[][] {
  const dealt = Array.from({ length: shares }, (_, share) => items.filter((_item, at) => at % shares === share));
  return dealt.filter((share) => share.length > 0);
}

/** Whether a step is likely to ask for the shared broker. One that does unexpectedly starts its own. */
export function needsBroker(step: Step): boolean {
  return (step.tests ?? []).some((path) => !path.includes("test/unit"));
}

export interface Plan {
  steps: Step[];
  /** Passed on to mocha: only tests whose full title matches. */
  grep?: string;
}

/** A command line that names no step, no option and no test file. */
export class UnknownChoiceError extends Error {
  override readonly name = "UnknownChoiceError";
}

/**
 * The plan for these arguments: names of steps, test files, and `--grep <text>`. None at all means everything.
 * @throws UnknownChoiceError
 */
export function planTests(argv: string[]): Plan {
  const chosen = new Set<Step>();
  const files: string[] = [];
  let grep: string | undefined;
  for (let index = 0; index < argv.length; index += 1) {
    const argument = argv[index] ?? "";
    const step = steps.find(({ name }) => name === argument);
    if (step) chosen.add(step);
    else if (argument.endsWith(".test.ts")) files.push(argument);
    else if (argument === "--grep" || argument === "-g") {
      index += 1;
      grep = argv[index];
      if (grep === undefined) throw new UnknownChoiceError(`${argument} needs a text after it`);
    } else {
      const names = steps.map(({ name }) => name).join(", ");
      throw new UnknownChoiceError(
        `"${argument}" is no step (${names}), no test file (*.test.ts) and no option (--grep)`,
      );
    }
  }
  const named = steps.filter((step) => chosen.has(step));
  if (files.length > 0) named.push({ name: "files", heading: files.join(" "), tests: files });
  if (named.length === 0) named.push(...(grep === undefined ? steps : steps.filter((step) => step.tests)));
  return grep === undefined ? { steps: named } : { steps: named, grep };
}

export interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

export function addCounts(one: Counts, other: Counts): Counts {
  return {
    passed: one.passed + other.passed,
    failed: one.failed + other.failed,
    skipped: one.skipped + other.skipped,
  };
}
