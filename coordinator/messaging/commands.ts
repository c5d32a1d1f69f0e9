/** Sending a command: where it goes, and the record of it when it is tracked. */
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
   * Resolves when the broker has the command and, if it is tracked, the store its record. Both are written at once: a
   * command may arrive whose sender is told 503, hence a repetition has the same id.
   * @throws MusterError `no-such-target`, `too-many`: nothing was sent. `broker-unavailable`, `store-unavailable`: it may
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
    const letter = draftLetter(
      {
        messageId: id,
        kind: plan.key === "" ? "broadcast" : "command",
        name,
        contentType,
        ...optional,
        ...(traceparent === undefined ? {} : { traceparent }),
        ...(fingerprint === undefined ? {} : { replyTo: replyKeys.commands(site) }),
      },
      content,
      nowMs,
    );
    if (fingerprint === undefined) return sender.send(plan, letter);
    const recipients = plan.recipients.map((member) => member.id);
    const [tracked, sent] = await Promise.allSettled([
      tracking.track({ id, to, name, fingerprint, recipients, ...optional }),
      sender.send(plan, letter),
    ]);
    if (sent.status === "rejected" && isNothingSent(sent.reason) && tracked.status === "fulfilled") {
      await tracking.forget(id).catch(() => undefined);
    }
    for (const outcome of [sent, tracked]) if (outcome.status === "rejected") throw outcome.reason;
  }
}

function isNothingSent(reason: unknown): boolean {
  const { code } = reason as { code?: unknown };
  return code === "no-such-target" || code === "too-many" || code === "refused";
}
