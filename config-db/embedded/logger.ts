/** The part of a pino logger that this store uses. */
export interface Logger {
  error(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export const silent: Logger = { error: () => {}, warn: () => {} };
