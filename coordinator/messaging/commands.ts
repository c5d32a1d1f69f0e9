/** Sending a command: where it goes, and the record of it when it is tracked. */
import { isMusterError } from "../../config-db/errors.ts";
import type { Target } from "../../config-db/generated/types.ts";
import { replyKeys } from "../../config-db/names.ts";
import { draftLetter, type Sender } from "./send.ts";
import type { Tracking } from "./tracking.ts";

export interface CommandsOptions {
  sender: Sender;
  tracking: Tracking;
  site: string;
  wallClock: () => Date;
}

export interface OutgoingCommand {
  id: string;
  to: Target;
  name: string;
  content: Buffer;
  contentType: string;
  /** Milliseconds from now; nobody begins it later. */
  deadlineMs?: number | undefined;
  from?: string | undefined;
  traceparent?: string | undefined;
  /** Tells a repetition from another command under the same id. Absent: untracked. */
  fingerprint?: string;
}

export class Commands {
  readonly #options: CommandsOptions;

  constructor(options: CommandsOptions) {
    this.#options = options;
  }

  /**
   * Resolves when the broker has the command. A tracked one has its record first: what its targets answer finds it, and a
   * repetition at any coordinator finds that it was sent.
   * @throws MusterError `no-such-target`, `too-many`, `store-unavailable`: nothing was sent. `broker-unavailable`: it may
   * have been. `refused`: the id was another command's.
   */
  async send(command: OutgoingCommand): Promise<void> {
    const { sender, tracking, site, wallClock } = this.#options;
    const { id, to, name, content, contentType, deadlineMs, from, traceparent, fingerprint } = command;
    const plan = sender.plan(to, "command");
    const nowMs = wallClock().getTime();
    const optional = {
      ...(deadlineMs === undefined ? {} : { deadlineAtMs: nowMs + deadlineMs }),
      ...(from === undefined ? {} : { from }),
    };
    const draft = {
      messageId: id,
      kind: plan.key === "" ? "broadcast" : "command",
      name,
      contentType,
      ...optional,
      ...(traceparent === undefined ? {} : { traceparent }),
    } as const;
    if (fingerprint === undefined) return sender.send(plan, draftLetter(draft, content, nowMs));
    const recipients = plan.recipients.map((member) => member.id);
    const begun = await tracking.begin({ id, to, name, fingerprint, recipients, ...optional });
    if (begun === undefined) return;
    const tracked = { ...draft, ...begun.deadline, replyTo: replyKeys.commands(site) };
    try {
      await sender.send(plan, draftLetter(tracked, content, nowMs));
    } catch (error) {
      if (begun.isNew && isNothingSent(error)) await tracking.forget(id).catch(() => undefined);
      throw error;
    }
    tracking.sent(id);
  }
}

function isNothingSent(error: unknown): boolean {
  return isMusterError(error, "no-such-target") || isMusterError(error, "too-many");
}
