/** The settings of a type as TypeScript, made from its schema: only what settings can be is in it, and nothing as it is written. */
type Schema = Record<string, unknown>;

/** Keywords whose value is a schema, a list of them, or has them by name. */
const applicators = {
  one: [
    ...["items", "additionalProperties", "unevaluatedItems", "unevaluatedProperties", "contains", "propertyNames"],
    ...["not", "if", "then", "else"],
  ],
  lists: ["prefixItems", "allOf", "anyOf", "oneOf"],
  named: ["properties", "patternProperties", "dependentSchemas", "$defs"],
};
/** Of what a type says of these, all holds for the settings: defaults in them are filled in. ajv's rule. */
const filledKeywords = ["items", "additionalProperties", "prefixItems", "allOf", "properties", "patternProperties"];
/** Said in a type as in a schema. What the generator has of its own, such as `tsType`, is not among them. */
const copied = ["type", "enum", "const", "title", "deprecated"] as const;
/** Tuples beyond it are arrays: the generator writes each length down. */
const tupleLengthMax = 20;

/**
 * An interface `name` for effective settings that fit `schema`. A property that has a default is required in it wherever
 * the coordinator fills that in, and only there.
 * @throws Error for a reference that cannot be told before there are settings.
 */
export async function settingsTypes(schema: Schema, name: string, banner: string): Promise<string> {
  // Half a second to load, and only one command needs it.
  const { compile } = await import("json-schema-to-typescript");
  return await compile({ ...new Translation(schema).translated(), title: name } as object, name, {
    // Settings that the schema does not name are allowed, but no program reads what it has no name for.
    additionalProperties: false,
    bannerComment: banner,
    unknownAny: true,
    format: true,
    style: { printWidth: 120 },
    $refOptions: { resolve: { file: false, http: false } },
  });
}

/** What is told of a schema to the generator, which knows neither anchors, `prefixItems`, nor where defaults are filled in. */
class Translation {
  readonly #root: Schema;
  /** The schema with an `$id`, or the root, that each schema is of: its references are relative to that. */
  readonly #resources = new Map<Schema, Schema>();
  readonly #anchors = new Map<Schema, Map<string, Schema>>();
  /** Those that are referred to, by their name in what is told; where defaults are filled in and where they are not. */
  readonly #definitions = new Map<string, { target: Schema; isFilled: boolean; translated: unknown }>();

  constructor(schema: Schema) {
    this.#root = schema;
    this.#index(schema, schema);
  }

  translated(): Schema {
    const root = this.#tell(this.#root, true);
    const definitions = [...this.#definitions].map(([key, { translated }]) => [key, translated]);
    return { ...root, $defs: Object.fromEntries(definitions) };
  }

  #translate(schema: unknown, isFilled: boolean): unknown {
    if (!isSchema(schema)) return schema;
    const told = this.#tell(schema, isFilled);
    const [only, ...others] = listOf(told.allOf);
    const isReference = isSchema(only) && "$ref" in only && others.length === 0 && Object.keys(told).length === 1;
    return isReference ? only : told;
  }

  #tell(schema: Schema, isFilled: boolean): Schema {
    const told: Schema = {};
    for (const key of copied) if (key in schema) told[key] = schema[key];
    // A line of a comment: nothing may end it.
    if (typeof schema.description === "string") told.description = schema.description.replaceAll("*/", "* /");
    this.#tellProperties(schema, isFilled, told);
    this.#tellItems(schema, isFilled, told);
    const references = this.#references(schema).map((target) => this.#define(target, isFilled));
    const all = [...references, ...listOf(schema.allOf).map((one) => this.#translate(one, isFilled))];
    if (all.length > 0) told.allOf = all;
    for (const key of ["anyOf", "oneOf"]) {
      if (key in schema) told[key] = listOf(schema[key]).map((one) => this.#translate(one, false));
    }
    return told;
  }

  #tellProperties(schema: Schema, isFilled: boolean, told: Schema): void {
    const { required, additionalProperties } = schema;
    const properties = namedIn(schema.properties);
    const patterns = namedIn(schema.patternProperties);
    if ("properties" in schema) {
      const translated = properties.map(([key, value]) => [key, this.#translate(value, isFilled)]);
      told.properties = Object.fromEntries(translated);
    }
    const defaulted = isFilled ? properties.flatMap(([key, value]) => (hasDefault(value) ? [key] : [])) : [];
    const always = new Set([...listOf(required), ...defaulted]);
    if (always.size > 0) told.required = [...always];
    // Which names fit a pattern no type can say: what they have is one union.
    const others = [...patterns.map(([, value]) => value), additionalProperties].filter(isSchema);
    const isOpen = additionalProperties === true || patterns.some(([, value]) => value === true);
    // All others and those with a name would be of one type, which fits both only if nothing is said of it.
    if (isOpen || (others.length > 0 && properties.length > 0)) told.additionalProperties = true;
    else if (others.length > 0)
      told.additionalProperties = { anyOf: others.map((one) => this.#translate(one, isFilled)) };
  }

  #tellItems({ prefixItems, items, minItems, maxItems }: Schema, isFilled: boolean, told: Schema): void {
    if (prefixItems === undefined && items === undefined) return;
    const rest = this.#translate(items ?? true, isFilled);
    const first = listOf(prefixItems).map((one) => this.#translate(one, isFilled));
    if (first.length > tupleLengthMax) {
      told.items = true;
      return;
    }
    told.items = first.length === 0 ? rest : first;
    if (first.length > 0) told.additionalItems = rest;
    if (Number(minItems) <= tupleLengthMax) told.minItems = minItems;
    if (Number(maxItems) <= tupleLengthMax) told.maxItems = maxItems;
  }

  /** A reference to the translation of `target`, which is made when it is first referred to. */
  #define(target: { name: string; schema: unknown }, isFilled: boolean): unknown {
    const { schema } = target;
    if (!isSchema(schema)) return schema;
    if (schema === this.#root && (isFilled || !this.#fills(schema))) return { $ref: "#" };
    const known = [...this.#definitions].find(
      ([, one]) => one.target === schema && (one.isFilled === isFilled || !this.#fills(schema)),
    );
    if (known !== undefined) return { $ref: `#/$defs/${known[0]}` };
    const base = target.name.replaceAll(/\W+/g, "") || "Definition";
    let key = base;
    for (let count = 1; this.#definitions.has(key); count += 1) key = `${base}${count}`;
    const definition = { target: schema, isFilled, translated: {} as unknown };
    this.#definitions.set(key, definition);
    definition.translated = this.#translate(schema, isFilled);
    return { $ref: `#/$defs/${key}` };
  }

  /** Whether a default is filled in somewhere. */
  #fills(schema: unknown, seen = new Set<Schema>()): boolean {
    if (!isSchema(schema) || seen.has(schema)) return false;
    seen.add(schema);
    if (namedIn(schema.properties).some(([, value]) => hasDefault(value))) return true;
    const within = schemasIn(schema).flatMap(({ keyword, value }) => (filledKeywords.includes(keyword) ? [value] : []));
    const referred = this.#references(schema).map((target) => target.schema);
    return [...within, ...referred].some((one) => this.#fills(one, seen));
  }

  #references(schema: Schema): { name: string; schema: unknown }[] {
    const { $ref, $dynamicRef } = schema;
    const resource = this.#resources.get(schema) ?? this.#root;
    const found = typeof $ref === "string" ? [this.#resolve($ref, resource)] : [];
    if (typeof $dynamicRef === "string") {
      const target = this.#resolve($dynamicRef, resource);
      this.#checkDynamic($dynamicRef, target.schema);
      found.push(target);
    }
    return found;
  }

  #resolve(reference: string, resource: Schema): { name: string; schema: unknown } {
    const fragment = decodeURIComponent(reference.slice(1));
    if (!fragment.startsWith("/")) {
      const schema = fragment === "" ? resource : this.#anchors.get(resource)?.get(fragment);
      if (schema === undefined) throw new Error(`${reference} refers to nothing in it`);
      return { name: fragment, schema };
    }
    const tokens = fragment.slice(1).split("/");
    let schema: unknown = resource;
    for (const token of tokens) {
      const key = token.replaceAll("~1", "/").replaceAll("~0", "~");
      const within: object = typeof schema === "object" && schema !== null ? schema : {};
      if (!Object.hasOwn(within, key)) throw new Error(`${reference} refers to nothing in it`);
      schema = (within as Schema)[key];
    }
    // Under a keyword that has no schemas of its own, such as `definitions`.
    if (isSchema(schema) && !this.#resources.has(schema)) this.#index(schema, resource);
    return { name: tokens.at(-1) ?? "", schema };
  }

  /** A dynamic reference means the outermost of its name on the way to it: surely the root, where that has it alone. */
  #checkDynamic(reference: string, target: unknown): void {
    const alike = [...this.#resources.keys()].filter(({ $dynamicAnchor }) => `#${$dynamicAnchor}` === reference);
    if (target === this.#root && alike.length === 1) return;
    throw new Error(`$dynamicRef ${reference} does not surely mean the whole schema; $ref always means the same`);
  }

  #index(schema: unknown, parent: Schema): void {
    if (!isSchema(schema) || this.#resources.has(schema)) return;
    const resource = typeof schema.$id === "string" ? schema : parent;
    this.#resources.set(schema, resource);
    const anchors = this.#anchors.get(resource) ?? new Map<string, Schema>();
    this.#anchors.set(resource, anchors);
    for (const name of [schema.$anchor, schema.$dynamicAnchor]) if (typeof name === "string") anchors.set(name, schema);
    for (const { value } of schemasIn(schema)) this.#index(value, resource);
  }
}

function schemasIn(schema: Schema): { keyword: string; value: unknown }[] {
  const { one, lists, named } = applicators;
  return [
    ...one.map((keyword) => ({ keyword, value: schema[keyword] })),
    ...lists.flatMap((keyword) => listOf(schema[keyword]).map((value) => ({ keyword, value }))),
    ...named.flatMap((keyword) => namedIn(schema[keyword]).map(([, value]) => ({ keyword, value }))),
  ];
}

function isSchema(value: unknown): value is Schema {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function hasDefault(schema: unknown): boolean {
  return isSchema(schema) && "default" in schema;
}

function listOf(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

function namedIn(value: unknown): [string, unknown][] {
  return isSchema(value) ? Object.entries(value) : [];
}
