/** All records under a prefix of their ids, page by page: more of them than memory should hold at once. */
import type { Store } from "../../config-db/store.ts";

export interface PageOptions {
  /** Goes on after this id. */
  after?: string;
  limit: number;
  includeDocs: boolean;
}

export interface Row<Doc> {
  id: string;
  rev: string;
  doc: Doc | undefined;
}

export async function recordPage<Doc>(
  store: Store,
  database: string,
  prefix: string,
  { after, limit, includeDocs }: PageOptions,
): Promise<Row<Doc>[]> {
  const answer = await store.request<{ rows: { id: string; value: { rev: string }; doc?: Doc }[] }>({
    path: `${database}/_all_docs`,
    query: {
      startkey: after ?? prefix,
      endkey: `${prefix}\ufff0`,
      limit,
      ...(after === undefined ? {} : { skip: 1 }),
      ...(includeDocs ? { include_docs: true } : {}),
    },
    timeoutMs: 60_000,
  });
  return answer.rows.map(({ id, value, doc }) => ({ id, rev: value.rev, doc }));
}

export async function* recordPages<Doc>(
  store: Store,
  database: string,
  prefix: string,
  options: { limit: number; includeDocs: boolean },
): AsyncGenerator<Row<Doc>[]> {
  for (let after: string | undefined; ; ) {
    const page = await recordPage<Doc>(store, database, prefix, {
      ...options,
      ...(after === undefined ? {} : { after }),
    });
    if (page.length > 0) yield page;
    if (page.length < options.limit) return;
    after = page.at(-1)?.id;
  }
}
