/**
 * Finds the route of a request in one walk over its path's segments. Express tries its routes one after another, a
 * regular expression each: with sixty routes that took longer than all the rest of a cheap answer.
 */
import { MusterError } from "../../config-db/errors.ts";
import type { Route } from "./route.ts";

export interface Match<Served> {
  served: Served;
  params: Record<string, string>;
}

interface Node<Served> {
  literal: Map<string, Node<Served>>;
  parameter?: Node<Served>;
  /** By HTTP method in capitals; HEAD is served by GET. */
  methods: Map<string, { served: Served; names: string[] }>;
}

export class Router<Served> {
  readonly #root: Node<Served> = { literal: new Map(), methods: new Map() };

  add({ method, path }: Pick<Route, "method" | "path">, served: Served): void {
    let node = this.#root;
    const names: string[] = [];
    for (const segment of segmentsOf(path)) {
      const name = /^\{(\w+)\}$/.exec(segment)?.[1];
      const next: Node<Served> = (name === undefined ? node.literal.get(segment) : node.parameter) ?? {
        literal: new Map(),
        methods: new Map(),
      };
      if (name === undefined) node.literal.set(segment, next);
      else {
        node.parameter = next;
        names.push(name);
      }
      node = next;
    }
    node.methods.set(method.toUpperCase(), { served, names });
    if (method === "get") node.methods.set("HEAD", { served, names });
  }

  /**
   * @param path without the query, as it came.
   * @returns undefined where nothing is served; the methods that are where only this one is not.
   * @throws MusterError `invalid-request` for an escape in the path that is none.
   */
  match(method: string, path: string): Match<Served> | { allow: string } | undefined {
    const values: string[] = [];
    const node = find(this.#root, segmentsOf(path), 0, values);
    if (node === undefined) return undefined;
    const found = node.methods.get(method);
    if (found === undefined) return { allow: [...node.methods.keys()].join(", ") };
    const params: Record<string, string> = {};
    for (let index = 0; index < found.names.length; index++) {
      params[found.names[index] as string] = decode(values[index] as string);
    }
    return { served: found.served, params };
  }
}

/** A literal segment goes before a parameter; where it leads nowhere the parameter is tried. */
function find<Served>(node: Node<Served>, segments: string[], at: number, values: string[]): Node<Served> | undefined {
  if (at === segments.length) return node.methods.size > 0 ? node : undefined;
  const segment = segments[at] as string;
  const literal = node.literal.get(segment);
  const found = literal && find(literal, segments, at + 1, values);
  if (found !== undefined || node.parameter === undefined || segment === "") return found;
  values.push(segment);
  const through = find(node.parameter, segments, at + 1, values);
  if (through === undefined) values.pop();
  return through;
}

function segmentsOf(path: string): string[] {
  return path.split("/").slice(1);
}

function decode(segment: string): string {
  if (!segment.includes("%")) return segment;
  try {
    return decodeURIComponent(segment);
  } catch {
    throw new MusterError(
      "invalid-request",
      `cannot decode "${segment.slice(0, 100)}" in the path: % begins an escape`,
    );
  }
}
