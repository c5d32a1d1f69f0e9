/** The checks that every request passes before a handler sees it. All answer with a 4xx that says what is right. */
import { MusterError } from "../../config-db/errors.ts";
import { readJson } from "../../config-db/json-tree.ts";
import { limits } from "../../config-db/limits.ts";
import { idPattern } from "../../config-db/names.ts";
import { parse, type SchemaName } from "../../config-db/validate.ts";
import type { QueryParameter, Route } from "./route.ts";

const idParameters = new Set(["id", "type", "site", "subsystem"]);

/** @throws MusterError `invalid-request` for an id that no record can have. */
export function checkPath(params: Record<string, string>): void {
  for (const name in params) {
    const value = params[name] as string;
    if (idParameters.has(name) && !idPattern.test(value)) {
      throw new MusterError(
        "invalid-request",
        `"${value.slice(0, 100)}" cannot be the ${name}: it must match ${idPattern.source}`,
      );
    }
  }
}

/** The declared parameters of a query, each as its type. A parameter that the route does not declare is refused. */
export function parseQuery(
  route: Route,
  search: URLSearchParams,
): Record<string, string | number | boolean | undefined> {
  const query: Record<string, string | number | boolean | undefined> = {};
  if (search.size === 0) return query;
  const declared = route.query ?? {};
  for (const name of new Set(search.keys())) {
    const parameter = own(declared, name) ?? prefixed(declared, name);
    if (parameter === undefined) {
      const known = Object.keys(declared);
      const hint = known.length === 0 ? "this route takes none" : `known are ${known.join(", ")}`;
      throw new MusterError("unknown-parameter", `unknown query parameter "${name.slice(0, 100)}"; ${hint}`);
    }
    const values = search.getAll(name);
    if (values.length > 1)
      throw new MusterError("invalid-request", `query parameter "${name}" is given ${values.length} times`);
    query[name] = parseParameter(name, parameter, values[0] ?? "");
  }
  return query;
}

/** `metadata.*` declares every parameter that starts with `metadata.`. */
function prefixed(declared: Record<string, QueryParameter>, name: string): QueryParameter | undefined {
  const dot = name.indexOf(".");
  return dot > 0 ? own(declared, `${name.slice(0, dot)}.*`) : undefined;
}

/** Not what every object inherits: a query may name `constructor` or `__proto__`. */
function own(declared: Record<string, QueryParameter>, name: string): QueryParameter | undefined {
  return Object.hasOwn(declared, name) ? declared[name] : undefined;
}

function parseParameter(name: string, { schema }: QueryParameter, text: string): string | number | boolean {
  const wrong = (right: string) =>
    new MusterError("invalid-request", `query parameter "${name}" must be ${right}, got "${text.slice(0, 100)}"`);
  if (schema.type === "boolean") {
    if (text !== "true" && text !== "false") throw wrong("true or false");
    return text === "true";
  }
  if (schema.type === "integer") {
    const value = Number(text);
    if (!/^-?\d+$/.test(text) || value < schema.minimum || value > schema.maximum) {
      throw wrong(`an integer from ${schema.minimum} to ${schema.maximum}`);
    }
    return value;
  }
  if (schema.enum !== undefined && !schema.enum.includes(text)) throw wrong(`one of ${schema.enum.join(", ")}`);
  if (schema.pattern !== undefined && !new RegExp(schema.pattern).test(text))
    throw wrong(`of the form ${schema.pattern}`);
  if (text.length > (schema.maxLength ?? 1000)) throw wrong(`at most ${schema.maxLength ?? 1000} characters long`);
  return text;
}

/** The JSON body of a request, checked against the route's schema. */
export function parseBody(route: Route, contentType: string | undefined, bytes: Buffer): unknown {
  if (route.body === "bytes") return bytes;
  if (route.body === undefined) {
    if (bytes.length === 0) return undefined;
    throw new MusterError(
      "invalid-request",
      `${route.method.toUpperCase()} ${route.path} takes no body, got ${bytes.length} bytes`,
    );
  }
  if (bytes.length === 0 && route.bodyOptional === true) return {};
  if (
    contentType === undefined ||
    !/^application\/(json|merge-patch\+json|[\w.+-]+\+json)\s*(;|$)/i.test(contentType)
  ) {
    throw new MusterError(
      "unsupported-media-type",
      `send Content-Type: application/json, got ${contentType ?? "none"}`,
    );
  }
  const charset = /;\s*charset\s*=\s*"?([^";\s]*)/i.exec(contentType)?.[1];
  if (charset !== undefined && !/^utf-?8$/i.test(charset)) {
    throw new MusterError("unsupported-media-type", `send JSON as UTF-8, got charset ${charset.slice(0, 100)}`);
  }
  try {
    return parse(route.body as SchemaName, readJson(bytes));
  } catch (error) {
    throw route.bodyIsSecret === true && error instanceof MusterError ? untold(error) : error;
  }
}

/** The same refusal without what it tells of the body: values, and keys, which may be values in the wrong place. */
function untold({ code, errors = [] }: MusterError): MusterError {
  if (code === "malformed-json") return new MusterError(code, "the body is not JSON in UTF-8");
  const fields = errors.map(({ pointer, rule = "" }) => ({
    pointer,
    rule,
    message: `breaks the rule "${rule}" of its schema in /openapi.json`,
  }));
  const told = fields.map(({ pointer, message }) => `${pointer === "" ? "the body" : pointer} ${message}`);
  return new MusterError(code, told.join("; "), { errors: fields });
}

/** The bytes of a body that may be read, for a route. */
export function bodyLimitBytes(route: Route): number {
  return route.body === "bytes" ? limits.bodyBytes : limits.requestBytes;
}
