/** Configuration over HTTP: effective settings for components, layers for operators, who has applied what. */

import type { ConfigStatusReport } from "../../config-db/generated/types.ts";
import type { Configuration } from "../config/configuration.ts";
import { etagOf } from "../config/etag.ts";
import { layerRoutes } from "./config-layer-routes.ts";
import { schemaRoutes, secretRoutes } from "./config-schema-routes.ts";
import { problemOf } from "./problem.ts";
import type { RequestContext, Route, StreamAnswer } from "./route.ts";
import { incarnationParameter, type SignsOfLife, signIn, whileAlive } from "./sign-of-life.ts";
import { answerOrWait, namesEtag, streamNewest, type Watchable, waitParameter, wantsStream } from "./watch.ts";

export interface ConfigRoutesOptions {
  configuration: Configuration;
  /** A component that follows its configuration gives one with each poll. */
  signs: SignsOfLife;
}

export function configRoutes({ configuration, signs }: ConfigRoutesOptions): Route[] {
  return [
    ...effectiveRoutes(configuration, signs),
    ...statusRoutes(configuration),
    ...layerRoutes(configuration),
    ...schemaRoutes(configuration),
    ...secretRoutes(configuration),
  ];
}

function effectiveRoutes(configuration: Configuration, signs: SignsOfLife): Route[] {
  return [
    {
      method: "get",
      path: "/v1/components/{id}/config",
      summary: "The effective settings of a component",
      query: {
        explain: { description: "Names the layer that each value came from.", schema: { type: "boolean" } },
        ...incarnationParameter,
        ...waitParameter,
      },
      streams: true,
      answers: {
        200: { description: "the settings", schema: { type: "object" } },
        304: { description: "unchanged" },
        409: { description: "a newer process has this id" },
      },
      handle: (request) => {
        const id = request.params.id as string;
        if (wantsStream(request)) return streamEffective(configuration, id, request);
        const explained = request.query.explain === true;
        const source = new EffectiveSource(configuration, id, explained);
        // Who names what it has is the component itself; an operator who looks must not keep a dead one alive.
        const known = request.header("if-none-match");
        if (known === undefined || explained) return answerOrWait(request, source);
        return whileAlive(signs, signIn(request), async (superseded) => {
          await configuration.catchUp(id, (etag) => namesEtag(known, etag));
          return answerOrWait(request, source, superseded);
        });
      },
    },
  ];
}

/** A class: this is what is asked for most, and closures would be made for each time. */
class EffectiveSource implements Watchable {
  readonly #configuration: Configuration;
  readonly #id: string;
  readonly #explained: boolean;

  constructor(configuration: Configuration, id: string, explained: boolean) {
    this.#configuration = configuration;
    this.#id = id;
    this.#explained = explained;
  }

  /** @throws MusterError the fault in what the component would get, which an explanation shows instead */
  read(): { etag: string; body: unknown } {
    const { etag, settings, body, fault } = this.#configuration.effective(this.#id);
    if (this.#explained) {
      const explanation = { etag, settings, explain: this.#configuration.explain(this.#id) };
      return { etag: etagOf(explanation), body: explanation };
    }
    if (fault !== undefined) throw fault;
    return { etag, body };
  }

  subscribe(changed: () => void): () => void {
    return this.#configuration.subscribe(this.#id, changed);
  }
}

async function streamEffective(
  configuration: Configuration,
  id: string,
  request: RequestContext,
): Promise<StreamAnswer> {
  const lastId = request.header("last-event-id");
  if (lastId !== undefined) await configuration.catchUp(id, (etag) => etag === lastId);
  const read = () => {
    const { etag, told, fault } = configuration.effective(id);
    return fault === undefined ? { event: "config", id: etag, data: told } : { event: "fault", data: problemOf(fault) };
  };
  return streamNewest(request, read, (changed) => configuration.subscribe(id, changed));
}

function statusRoutes(configuration: Configuration): Route[] {
  return [
    {
      method: "put",
      path: "/v1/components/{id}/config/status",
      summary: "A component reports that it applied or rejected its settings",
      body: "config-status-report",
      answers: { 204: { description: "noted" } },
      handle: async ({ params, body }) => {
        const report = body as ConfigStatusReport;
        // As the ETag header has it is right too: a report on `"x"` would count as pending for ever.
        const etag = report.etag.replace(/^(?:W\/)?"(.+)"$/, "$1");
        await configuration.report(params.id as string, { ...report, etag });
        return { status: 204 };
      },
    },
    {
      method: "get",
      path: "/v1/config/status",
      summary: "How many components have applied their settings, and which have not",
      query: {
        type: { description: "Only components of this type.", schema: { type: "string", maxLength: 63 } },
        ...waitParameter,
      },
      streams: true,
      answers: { 200: { description: "the summary", schema: { type: "object" } } },
      handle: (request) => {
        const type = request.query.type as string | undefined;
        if (wantsStream(request)) return streamStatus(configuration, type, request);
        return answerOrWait(request, {
          read: () => configuration.status.read({ type }),
          subscribe: (changed) => configuration.status.subscribe(changed),
        });
      },
    },
  ];
}

function streamStatus({ status }: Configuration, type: string | undefined, request: RequestContext): StreamAnswer {
  const read = () => {
    const { etag: id, body: data } = status.read({ type });
    return { event: "status", id, data };
  };
  return streamNewest(request, read, (changed) => status.subscribe(changed));
}
