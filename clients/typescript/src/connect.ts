import type { Settings } from "../../../config-db/generated/types.ts";
import { Component } from "./component.ts";
import { type ConnectOptions, resolveOptions } from "./options.ts";

/**
 * Makes this process a component: registered, configured, and able to send and receive.
 *
 * Resolves when a coordinator has registered it and its configuration is read; or, when none answers, as soon as the
 * last known configuration is found on disk: `component.state` is `offline` then, and it registers by itself later.
 * Without either it waits `connectTimeoutMs`.
 * @throws MusterError `invalid-request` for a bad option, `unreachable`, `refused` when the first configuration is not
 *   accepted, or whatever else the coordinator refuses the registration with.
 */
export async function connect<S extends object = Settings>(options: ConnectOptions<S>): Promise<Component<S>> {
  const component = new Component<S>(resolveOptions(options));
  await component.start();
  return component;
}
