/** `muster config content`: files of any media type that belong to a layer. */
import type { Command } from "commander";
import { path } from "../bridge.ts";
import { withExamples } from "../examples.ts";
import { readBytes } from "../file-input.ts";
import type { Invocation } from "../invocation.ts";

const next = { "not-found": "See what files a layer has with: muster config get <layer>" };

export function contentCommands(config: Command, cli: Invocation): void {
  const group = config
    .command("content")
    .summary("keep files of any media type with a layer")
    .description("Keep files of any media type with a layer.");

  withExamples(
    group
      .command("get")
      .description("Write a file's bytes to standard output.")
      .argument("<layer>", "such as type:collector")
      .argument("<name>", "the file's name")
      .action(
        cli.does<[string, string]>(async (session, [layer, name]) => {
          const request = { path: path`/v1/config/layers/${layer}/content/${name}`, raw: true } as const;
          const { body } = await session.bridge.ask<Buffer | undefined>(request);
          await session.printRaw(body ?? "");
        }, next),
      ),
    { line: "muster config content get type:collector rules.xml > rules.xml" },
  );

  withExamples(
    group
      .command("put")
      .description("Keep a file with a layer, or replace it.")
      .argument("<layer>", "such as type:collector")
      .argument("<name>", "the file's name")
      .argument("<file>", "where it is; - is standard input")
      .option("--content-type <type>", "its media type; else by the name's ending")
      .action(
        cli.does<[string, string, string], { contentType?: string }>(async (session, [layer, name, file], options) => {
          const bytes = await readBytes(session.terminal, file);
          const type = options.contentType ?? mediaTypeOf(name);
          const { body } = await session.bridge.ask({
            method: "PUT",
            path: path`/v1/config/layers/${layer}/content/${name}`,
            content: { type, bytes },
          });
          await session.print(
            body ?? { layer, name, contentType: type },
            () => `${layer} has ${name}: ${bytes.length} bytes, ${type}`,
          );
        }, next),
      ),
    { line: "muster config content put type:collector rules.xml ./rules.xml" },
    { line: "muster config content put type:collector model.bin model.bin --content-type application/octet-stream" },
  );

  withExamples(
    group
      .command("rm")
      .description("Take a file away from a layer.")
      .argument("<layer>", "such as type:collector")
      .argument("<name>", "the file's name")
      .action(
        cli.does<[string, string]>(async (session, [layer, name]) => {
          await session.bridge.ask({ method: "DELETE", path: path`/v1/config/layers/${layer}/content/${name}` });
          await session.print({ layer, name, deleted: true }, () => `${layer} no longer has ${name}`);
        }, next),
      ),
    { line: "muster config content rm type:collector rules.xml" },
  );
}

const mediaTypes: Record<string, string> = {
  json: "application/json",
  xml: "application/xml",
  yaml: "application/yaml",
  yml: "application/yaml",
  toml: "application/toml",
  txt: "text/plain; charset=utf-8",
  csv: "text/csv; charset=utf-8",
  html: "text/html; charset=utf-8",
  pem: "application/x-pem-file",
};

/** By the ending of the name; what is not known is bytes. */
export function mediaTypeOf(name: string): string {
  const ending = name.includes(".") ? (name.split(".").at(-1) ?? "") : "";
  return mediaTypes[ending.toLowerCase()] ?? "application/octet-stream";
}
