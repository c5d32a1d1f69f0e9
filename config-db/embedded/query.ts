/** The parameters of a request, from its URL and for some routes from its body, read as CouchDB reads them. */
import { badRequest, queryParseError } from "./couch-error.ts";
import { type JsonObject, parseJson } from "./json.ts";

export class Query {
  readonly #url: URLSearchParams;
  readonly #body: Map<string, unknown>;

  /** @param text what stands after `?`. @param body parameters given as JSON, which count over those of the URL. */
  constructor(text: string, body: JsonObject = {}) {
    this.#url = new URLSearchParams(text);
    this.#body = new Map(Object.entries(body));
  }

  /** The same URL with a body's members as parameters: `_all_docs`, views and `_changes` take either. */
  with(body: JsonObject): Query {
    return new Query(this.#url.toString(), body);
  }

  text(name: string): string | undefined {
    const given = this.#body.get(name);
    if (given === undefined) return this.#url.get(name) ?? undefined;
    return typeof given === "string" ? given : JSON.stringify(given);
  }

  flag(name: string): boolean | undefined {
    const value = this.text(name);
    if (value === undefined) return undefined;
    if (value === "true") return true;
    if (value === "false") return false;
    throw queryParseError(`Invalid boolean parameter: ${JSON.stringify(value)}`);
  }

  /** A whole number that is not negative. */
  count(name: string): number | undefined {
    const value = this.text(name);
    if (value === undefined) return undefined;
    if (/^\d{1,15}$/.test(value)) return Number(value);
    const what = /^-\d+$/.test(value) ? "positive integer" : "integer";
    throw queryParseError(`Invalid value for ${what}: ${JSON.stringify(value)}`);
  }

  /** The first of the names that is given, as a JSON value. */
  json(...names: string[]): unknown {
    for (const name of names) {
      if (this.#body.has(name)) return this.#body.get(name);
      const text = this.#url.get(name);
      if (text !== null) return parseJson(text);
    }
    return undefined;
  }

  array(name: string): unknown[] | undefined {
    const value = this.json(name);
    if (value === undefined || Array.isArray(value)) return value;
    throw badRequest(`\`${name}\` parameter must be an array.`);
  }

  /** Every parameter of the URL as text: what a filter function of a design document sees as `req.query`. */
  all(): Record<string, string> {
    return Object.fromEntries(this.#url);
  }
}
