/** The Muster client. Everything public is exported here, and nothing else is. */
export { type ErrorCode, type FieldError, isMusterError, MusterError } from "../../../config-db/errors.ts";
export type { Health, Settings, Target } from "../../../config-db/generated/types.ts";
export type { Component } from "./component.ts";
export type { ConfigChange, ConfigHandler, ConfigHandlerOptions, Configuration } from "./configuration.ts";
export { connect } from "./connect.ts";
export type { ComponentRecord, DiscoveryQuery, MembershipChange, Pick } from "./directory.ts";
export { type Handler, type HandlerContext, type HandlerOptions, PermanentFailure } from "./dispatcher.ts";
export type { Gathered } from "./gather.ts";
export type { Logger } from "./logger.ts";
export type { MemberState } from "./membership.ts";
export { type Message, Payload } from "./message.ts";
export type { Way } from "./messenger.ts";
export type { ConnectOptions } from "./options.ts";
export type { RequestOptions, SendOptions } from "./outgoing.ts";
export type { PickStrategy } from "./picking.ts";
export type { Event } from "./subscription.ts";
export type { CommandState, Sent, TargetState, TrackedCommand } from "./tracked-command.ts";
