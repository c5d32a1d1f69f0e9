/** The OpenAPI 3.1 document, built from the routes and the schemas that also check the requests. */
import { readSchemas, type SchemaName } from "../../config-db/validate.ts";
import type { AnswerDescription, Route } from "./route.ts";

const version = "1.0.0";

export function openApi(routes: Route[]): Record<string, unknown> {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const route of routes) {
    const operations = paths[route.path] ?? {};
    paths[route.path] = operations;
    operations[route.method] = operation(route);
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "Muster",
      version,
      description: "Configuration, discovery and messages for systems made of independent sub-systems.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    paths,
    components: { schemas: schemas(), securitySchemes: { token: { type: "http", scheme: "bearer" } } },
  };
}

function operation(route: Route): Record<string, unknown> {
  const pathParameters = [...route.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    name,
    in: "path",
    required: true,
    schema: { type: "string" },
  }));
  const queryParameters = Object.entries(route.query ?? {}).map(([name, { description, schema }]) => ({
    name,
    in: "query",
    description,
    schema,
  }));
  const answers = Object.entries(route.answers).map(([status, answer]) => [
    status,
    { description: answer.description, ...content(route, Number(status), answer) },
  ]);
  const problem = {
    description: "An error",
    content: { "application/problem+json": { schema: reference("problem") } },
  };
  return {
    summary: route.summary,
    operationId: `${route.method}${route.path.replaceAll(/[^A-Za-z]+(\w)?/g, (_all, next?: string) => (next ?? "").toUpperCase())}`,
    tags: [route.path.split("/")[2] ?? "health"],
    ...(pathParameters.length + queryParameters.length > 0
      ? { parameters: [...pathParameters, ...queryParameters] }
      : {}),
    ...(route.body === undefined ? {} : { requestBody: requestBody(route) }),
    responses: { ...Object.fromEntries(answers), default: problem },
  };
}

function requestBody({ body, bodyOptional }: Route): Record<string, unknown> {
  const media =
    body === "bytes"
      ? { "*/*": { schema: { type: "string" } } }
      : { "application/json": { schema: reference(body as SchemaName) } };
  return { required: bodyOptional !== true, content: media };
}

function content(route: Route, status: number, { schema, media }: AnswerDescription): { content?: object } {
  if (media !== undefined) return { content: { [media]: { schema: { type: "string" } } } };
  const hasBody = status >= 200 && status < 300 && status !== 204;
  if (schema === undefined && !hasBody) return {};
  const told = typeof schema === "string" ? reference(schema) : (schema ?? { type: "object" });
  const json = { "application/json": { schema: told } };
  return { content: route.streams === true ? { ...json, "text/event-stream": { schema: { type: "string" } } } : json };
}

function reference(name: SchemaName): { $ref: string } {
  return { $ref: `#/components/schemas/${title(name)}` };
}

function title(name: string): string {
  return name.replaceAll(/(?:^|-)(\w)/g, (_all, letter: string) => letter.toUpperCase());
}

/** Each schema under its title, the shared ones beside them. */
function schemas(): Record<string, unknown> {
  const { common, ...named } = readSchemas();
  const all: Record<string, unknown> = { ...(common?.$defs as object | undefined) };
  for (const [name, { $id: _id, ...schema }] of Object.entries(named)) all[title(name)] = schema;
  const text = JSON.stringify(all)
    .replaceAll("common.schema.json#/$defs/", "#/components/schemas/")
    .replaceAll('"#/$defs/', '"#/components/schemas/');
  // `tsType` speaks to the type generator alone.
  return JSON.parse(text, (key, value) => (key === "tsType" ? undefined : value));
}

/** A page that shows the document, with nothing loaded from elsewhere. */
export const docsPage = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Muster: HTTP API</title><script type="module" src="/docs/rapidoc.js"></script></head>
<body><rapi-doc spec-url="/openapi.json" render-style="read" show-header="false" allow-authentication="true"
 theme="light" primary-color="#1f6f5c" load-fonts="false"></rapi-doc></body>
</html>
`;
