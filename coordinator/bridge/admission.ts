/** Who may come in, and by what name. */
import { timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { MusterError } from "../../config-db/errors.ts";

/** What probes ask without a token: it tells nothing but whether the coordinator works. */
const open = new Set(["/livez", "/readyz"]);

/**
 * @param operatorToken absent: authentication is off.
 * @throws MusterError `unauthorized`, `forbidden`
 */
export function admit(request: IncomingMessage, operatorToken: string | undefined): void {
  if (operatorToken === undefined) {
    // Without a token the loopback is the fence: a web page that a browser here shows must not reach over it.
    const host = (request.headers.host ?? "").replace(/:\d+$/, "");
    if (host === "127.0.0.1" || host === "localhost" || host === "[::1]") return;
    throw new MusterError(
      "forbidden",
      `with authentication off only requests to 127.0.0.1 or localhost are taken, not to "${host}"`,
    );
  }
  if (open.has(request.url ?? "")) return;
  const given = /^Bearer (.+)$/i.exec(request.headers.authorization ?? "")?.[1];
  if (given !== undefined && sameText(given, operatorToken)) return;
  throw new MusterError(
    "unauthorized",
    "send Authorization: Bearer <token>; the operator's token is in MUSTER_OPERATOR_TOKEN",
  );
}

/** A name for `changedBy`. It is a courtesy, not a proof. */
export function authorOf(request: IncomingMessage, operatorToken: string | undefined): string {
  const said = request.headers["muster-user"];
  const name =
    typeof said === "string"
      ? said
          .replaceAll(/[^\x20-\x7e]/g, "")
          .trim()
          .slice(0, 200)
      : "";
  if (name !== "") return name;
  return operatorToken === undefined ? "anonymous" : "operator";
}

function sameText(a: string, b: string): boolean {
  const [x, y] = [Buffer.from(a), Buffer.from(b)];
  return x.length === y.length && timingSafeEqual(x, y);
}
