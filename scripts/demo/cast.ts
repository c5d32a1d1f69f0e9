/** The demo's components, each a process of its own that is started again when it dies. */
import { join, resolve } from "node:path";
import { processService } from "../process-service.ts";
import { type RunningService, type Service, type SupervisionEvent, Supervisor } from "../supervise.ts";

const root = resolve(import.meta.dirname, "../..");

export interface Role {
  id: string;
  /** Of a program in this folder. */
  file: string;
}

export interface CastOptions {
  roles: Role[];
  env: NodeJS.ProcessEnv;
  onLine(id: string, line: string): void;
  /** What happens to a component that was not meant by `kill`. */
  onEvent(event: SupervisionEvent): void;
}

interface Played {
  running: RunningService | undefined;
  /** While killed on purpose: settles when it may start again. */
  held: Promise<void> | undefined;
  release: () => void;
}

export class Cast {
  readonly #supervisor: Supervisor;
  readonly #played = new Map<string, Played>();

  constructor({ roles, env, onLine, onEvent }: CastOptions) {
    const services = roles.map((role) => this.#service(role, env, onLine));
    this.#supervisor = new Supervisor(services, {
      onEvent: (event) => {
        if (this.#played.get(event.service)?.held === undefined) onEvent(event);
      },
    });
  }

  async start(): Promise<void> {
    await this.#supervisor.start();
  }

  /** Kills by SIGKILL, at once; what it leaves undone stays undone. It stays down until `revive`. */
  kill(id: string): void {
    const played = this.#of(id);
    played.held = new Promise((resolve) => {
      played.release = resolve;
    });
    if (played.running !== undefined) process.kill(played.running.pid, "SIGKILL");
  }

  revive(id: string): void {
    const played = this.#of(id);
    played.held = undefined;
    played.release();
  }

  async close(): Promise<void> {
    for (const played of this.#played.values()) played.release();
    await this.#supervisor.close();
  }

  #of(id: string): Played {
    const played = this.#played.get(id);
    if (played === undefined) throw new Error(`no role ${id}`);
    return played;
  }

  #service({ id, file }: Role, env: NodeJS.ProcessEnv, onLine: (id: string, line: string) => void): Service {
    const played: Played = { running: undefined, held: undefined, release: () => undefined };
    this.#played.set(id, played);
    const loader = file.endsWith(".ts") ? ["--enable-source-maps", "--import", "tsx"] : [];
    const program = processService({
      name: id,
      command: process.execPath,
      args: [...loader, join(import.meta.dirname, file)],
      cwd: root,
      env: { ...env, MUSTER_COMPONENT_ID: id },
      onLine: (line) => onLine(id, line),
    });
    return {
      name: id,
      start: async (signal) => {
        await played.held;
        signal.throwIfAborted();
        played.running = await program.start(signal);
        return played.running;
      },
    };
  }
}
