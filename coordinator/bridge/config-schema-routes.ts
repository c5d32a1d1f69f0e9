/** Schemas, dry runs, secrets and faults over HTTP: what keeps configuration in order. */
import { MusterError } from "../../config-db/errors.ts";
import type { SecretWrite, ValidateRequest } from "../../config-db/generated/types.ts";
import type { Configuration } from "../config/configuration.ts";
import type { StoredSchema } from "../config/records.ts";
import { hashedAnswer, unchanged304, unlessKnown, writeContext } from "./config-layer-routes.ts";
import type { JsonAnswer, Route } from "./route.ts";

const object = { type: "object" };
const schema200 = { description: "the JSON Schema; its revision is the ETag", schema: object };
const stale412 = { description: "another revision stands there than If-Match names" };

export function schemaRoutes(configuration: Configuration): Route[] {
  const { schemas, records } = configuration;
  const path = "/v1/config/schemas/{type}";
  return [
    {
      method: "get",
      path: "/v1/config/schemas",
      summary: "The types that have a schema",
      answers: {
        200: { description: "`schemas`, without the schemas themselves", schema: object },
        304: unchanged304,
      },
      handle: (request) => {
        const live = [...records.schemas.keys()].sort().flatMap((type) => records.schema(type) ?? []);
        const told = live.map(({ type, version, changedAt, changedBy, site }) => ({
          type,
          version,
          changedAt,
          changedBy,
          site,
        }));
        return hashedAnswer(request, { schemas: told });
      },
    },
    {
      method: "get",
      path,
      summary: "The JSON Schema (2020-12) of a type's effective settings",
      answers: { 200: schema200, 304: unchanged304 },
      handle: (request) => {
        const type = request.params.type as string;
        const stored = records.schema(type);
        if (stored === undefined) throw new MusterError("not-found", `type ${type} has no schema; PUT one to make it`);
        return unlessKnown(request, schemaAnswer(200, stored));
      },
    },
    {
      method: "put",
      path,
      summary: "Set the schema of a type; its defaults are filled into the effective settings",
      body: "schema-write",
      answers: {
        200: schema200,
        201: schema200,
        412: stale412,
        422: { description: "no schema that can be used, or components' settings do not fit it: which, where and why" },
      },
      handle: async (request) => {
        const schema = request.body as Record<string, unknown>;
        const stored = await schemas.put(request.params.type as string, schema, writeContext(request));
        return schemaAnswer(stored.version === 1 ? 201 : 200, stored);
      },
    },
    {
      method: "delete",
      path,
      summary: "Take a type's schema away",
      answers: { 204: { description: "gone" }, 412: stale412 },
      handle: async (request) => {
        await schemas.delete(request.params.type as string, writeContext(request));
        return { status: 204 };
      },
    },
    {
      method: "post",
      path: "/v1/config/validate",
      summary: "Try a write of a layer or a schema: what it would change for whom, and what it would break",
      body: "validate-request",
      answers: { 200: { description: "`valid`, and the effective diff and errors of each component", schema: object } },
      handle: async ({ body }) => ({ status: 200, body: await configuration.validate(body as ValidateRequest) }),
    },
    {
      method: "get",
      path: "/v1/config/faults",
      summary: "What came in broken and is held out of force, and components whose settings are not valid",
      answers: { 200: { description: "`faults`", schema: object }, 304: unchanged304 },
      handle: (request) => hashedAnswer(request, { faults: configuration.faults() }),
    },
  ];
}

export function secretRoutes({ secrets }: Configuration): Route[] {
  const path = "/v1/config/secrets/{name}";
  return [
    {
      method: "get",
      path: "/v1/config/secrets",
      summary: "The secrets there are: names, versions and times, never values",
      answers: { 200: { description: "`secrets`", schema: object }, 304: unchanged304 },
      handle: (request) => hashedAnswer(request, { secrets: secrets.list() }),
    },
    {
      method: "get",
      path,
      summary: "One secret: its version and time, never its value",
      answers: { 200: { description: "the secret", schema: object }, 304: unchanged304 },
      handle: (request) => {
        const wanted = request.params.name;
        const found = secrets.list().find(({ name }) => name === wanted);
        if (found === undefined) throw new MusterError("not-found", `there is no secret "${wanted?.slice(0, 100)}"`);
        return hashedAnswer(request, found);
      },
    },
    {
      method: "put",
      path,
      summary: "Set a secret; components whose settings refer to it get the new value",
      body: "secret-write",
      bodyIsSecret: true,
      answers: { 204: { description: "stored, encrypted" } },
      handle: async (request) => {
        const { value } = request.body as SecretWrite;
        await secrets.put(request.params.name as string, value, writeContext(request));
        return { status: 204 };
      },
    },
    {
      method: "delete",
      path,
      summary: "Delete a secret that no settings refer to",
      answers: { 204: { description: "gone" }, 422: { description: "settings refer to it" } },
      handle: async (request) => {
        await secrets.delete(request.params.name as string, writeContext(request));
        return { status: 204 };
      },
    },
  ];
}

function schemaAnswer(status: number, { schema, _rev }: StoredSchema): JsonAnswer {
  return { status, headers: { etag: `"${_rev}"` }, body: schema };
}
