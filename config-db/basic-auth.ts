/** The `authorization` header of the credentials in a URL, which are percent-encoded there (RFC 7617). */
export function basicAuthorization({ username, password }: URL): string {
  return `Basic ${Buffer.from(`${decodeURIComponent(username)}:${decodeURIComponent(password)}`).toString("base64")}`;
}
