/** What is known of a tracked command, and how news of its targets changes that. Pure: time comes as an argument. */
import type { CommandDocument, OutcomeMessage, Target, TargetState } from "../../config-db/generated/types.ts";
import { documentId } from "../../config-db/names.ts";

export type Targets = Record<string, TargetState>;

export interface NewCommand {
  id: string;
  to: Target;
  name: string;
  from?: string;
  deadlineAtMs?: number;
  fingerprint: string;
  /** Ids of those whom it reaches, as the registry knows it now; for `any` those of whom one gets it. */
  recipients: string[];
}

const reasonCharactersMax = 1000;

/** The target of a command for any one of a type, until one of them has it. */
export const anyTarget = (type: string) => `any:${type}`;

export function newCommandRecord(command: NewCommand, nowMs: number): CommandDocument {
  const { id, to, name, from, deadlineAtMs, fingerprint, recipients } = command;
  const at = new Date(nowMs).toISOString();
  const waiting = "any" in to ? [anyTarget(to.any)] : recipients;
  return {
    _id: documentId.command(id),
    kind: "command",
    schemaVersion: 1,
    id,
    to,
    name,
    sentAt: at,
    fingerprint,
    targets: Object.fromEntries(waiting.map((target) => [target, { state: "queued", at }])),
    ...(from === undefined ? {} : { from }),
    ...(deadlineAtMs === undefined ? {} : { deadlineAt: new Date(deadlineAtMs).toISOString() }),
  };
}

export function isFinal({ state }: TargetState): boolean {
  return state !== "queued" && state !== "delivered";
}

/** Whether the broker has it for certain: who sent it said so, or a target did. */
export function isSent({ sent, targets }: CommandDocument): boolean {
  return sent === true || Object.values(targets).some(({ state }) => state !== "queued");
}

/** True when nothing more is to come, save a redrive. */
export function hasEnded({ targets }: CommandDocument): boolean {
  return Object.values(targets).every(isFinal);
}

/**
 * The record after an outcome, or the same one when it says nothing new. Outcomes come late, twice and out of order: `done`
 * stands against everything, another end against everything but `done`, a later attempt against an earlier one. What
 * became of a message that has been sent again since is no news of what it is now.
 */
export function applyOutcome(record: CommandDocument, outcome: OutcomeMessage): CommandDocument {
  const { to, targets } = record;
  const isKnown = outcome.component in targets;
  if (!isKnown && !mayJoin(to, outcome.component)) return record;
  const before = targets[outcome.component];
  if (before !== undefined && !supersedes(outcome, before)) return record;
  const news: TargetState = { state: outcome.state, at: outcome.at };
  if (outcome.attempt !== undefined) news.attempt = outcome.attempt;
  if (outcome.reason !== undefined) news.reason = outcome.reason.slice(0, reasonCharactersMax);
  if (before?.redriven !== undefined) news.redriven = before.redriven;
  return { ...record, targets: { ...othersOf(record, outcome), [outcome.component]: news } };
}

/** One of the type got a command for any of it; a broadcast reaches also those who came just after its sending. */
function mayJoin(to: Target, component: string): boolean {
  return !("component" in to) && !component.startsWith("any:");
}

/** A command for any of a type is with one component: with whom it was before, and died, it is no longer. */
function othersOf({ to, targets }: CommandDocument, { component }: OutcomeMessage): Targets {
  if (!("any" in to)) return targets;
  return Object.fromEntries(
    Object.entries(targets).filter(([id, state]) => id !== component && state.state === "done"),
  );
}

function supersedes(outcome: OutcomeMessage, before: TargetState): boolean {
  if (before.state === "done") return false;
  if (outcome.state === "done") return true;
  if (isFinal(before) || isOfEarlierLife(outcome, before)) return false;
  if (outcome.state !== "delivered") return true;
  return before.state === "queued" || (outcome.attempt ?? 1) > (before.attempt ?? 1);
}

function isOfEarlierLife({ redriven }: OutcomeMessage, before: TargetState): boolean {
  return redriven !== undefined && redriven < (before.redriven ?? 0);
}

/** What nobody began before the deadline nobody will: consumers look at it. */
export function expire(record: CommandDocument, nowMs: number): CommandDocument {
  if (record.deadlineAt === undefined || Date.parse(record.deadlineAt) > nowMs) return record;
  const at = new Date(nowMs).toISOString();
  const late = Object.entries(record.targets).filter(([, { state, redriven }]) => state === "queued" && !redriven);
  if (late.length === 0) return record;
  const expired = late.map(([id]) => [id, { state: "expired", at, reason: "not begun before its deadline" }] as const);
  return { ...record, targets: { ...record.targets, ...Object.fromEntries(expired) } };
}

/** A dead letter of this command was sent again, for the `redriven`th time. */
export function requeue(record: CommandDocument, target: string, redriven: number, nowMs: number): CommandDocument {
  const before = record.targets[target];
  if (before?.state === "done") return record;
  const at = new Date(nowMs).toISOString();
  return {
    ...record,
    sent: true,
    targets: { ...record.targets, [target]: { state: "queued", at, redriven } },
  };
}

/** What `GET /v1/commands/{id}` answers. */
export function commandAnswer({ id, to, name, from, sentAt, deadlineAt, targets }: CommandDocument) {
  return {
    id,
    to,
    name,
    sentAt,
    ...(from === undefined ? {} : { from }),
    ...(deadlineAt === undefined ? {} : { deadlineAt }),
    targets,
  };
}
