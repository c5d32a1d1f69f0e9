import { type ChildProcess, spawn } from "node:child_process";
import { signalProcess } from "./process-identity.ts";

/**
 * Ends process groups when this process dies without having ended them, even by SIGKILL.
 *
 * One small shell reads from a pipe that only this process holds; the system closes the pipe with it. It knows the
 * groups by name of their leaders: `+ pid` adds one, `- pid` drops it.
 */
const script = `
trap '' INT TERM HUP
groups=
while read -r op pid; do
  case $op in
    +) groups="$groups $pid" ;;
    -) kept=; for p in $groups; do [ "$p" = "$pid" ] || kept="$kept $p"; done; groups=$kept ;;
  esac
done
[ -n "$groups" ] || exit 0
for p in $groups; do kill -s TERM -- "-$p" 2>/dev/null; done
tries=0
while [ $tries -lt 100 ]; do
  alive=
  for p in $groups; do kill -s 0 -- "-$p" 2>/dev/null && alive="$alive $p"; done
  [ -n "$alive" ] || exit 0
  sleep 0.2
  tries=$((tries + 1))
done
for p in $alive; do kill -s KILL -- "-$p" 2>/dev/null; done
`;

let watcher: ChildProcess | undefined;
const tied = new Set<number>();

/**
 * Ties the process group led by `pid` to this process: SIGTERM when this one is gone, SIGKILL 20 s later.
 * Call what it returns once the group has ended, since its number may then be given to others.
 */
export function tieGroup(pid: number): () => void {
  const shell = watcher ?? startWatcher();
  tied.add(pid);
  shell.stdin?.write(`+ ${pid}\n`);
  return () => {
    if (!tied.delete(pid)) return;
    shell.stdin?.write(`- ${pid}\n`);
    if (tied.size > 0) return;
    shell.stdin?.end();
    if (watcher === shell) watcher = undefined;
  };
}

/** Kills all that is tied to this process, at once. For its very last moment: nothing drains. */
export function killTiedGroups(): void {
  for (const pid of tied) signalProcess(-pid, "SIGKILL");
}

function startWatcher(): ChildProcess {
  const shell = spawn("/bin/sh", ["-c", script], { stdio: ["pipe", "ignore", "ignore"], detached: true });
  // It must neither keep this process alive nor fail it: without it the groups are only less well guarded.
  shell.on("error", () => undefined);
  shell.stdin?.on("error", () => undefined);
  shell.unref();
  (shell.stdin as unknown as { unref?: () => void })?.unref?.();
  watcher = shell;
  return shell;
}
