/** Secrets at rest: AES-256-GCM under the key of the installation, which every site that resolves them must have. */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from "node:crypto";
import type { Sealed } from "../../config-db/generated/types.ts";

const algorithm = "aes-256-gcm";
/** 96 bits, as NIST SP 800-38D advises; random, which is safe for far more writes than a configuration ever sees. */
const ivBytes = 12;

/** @param name is bound to the value: a sealed value moved under another name does not open. */
export function seal(key: Buffer, name: string, value: string): Sealed {
  const iv = randomBytes(ivBytes);
  const cipher = createCipheriv(algorithm, key, iv).setAAD(Buffer.from(name));
  const ciphertext = Buffer.concat([cipher.update(value, "utf8"), cipher.final()]);
  return {
    iv: iv.toString("base64"),
    tag: cipher.getAuthTag().toString("base64"),
    ciphertext: ciphertext.toString("base64"),
  };
}

/** @returns the value, or undefined where the key is another one or the sealed value was tampered with. */
export function open(key: Buffer, name: string, sealed: Sealed): string | undefined {
  try {
    const decipher = createDecipheriv(algorithm, key, Buffer.from(sealed.iv, "base64"), { authTagLength: 16 })
      .setAAD(Buffer.from(name))
      .setAuthTag(Buffer.from(sealed.tag, "base64"));
    return Buffer.concat([decipher.update(Buffer.from(sealed.ciphertext, "base64")), decipher.final()]).toString(
      "utf8",
    );
  } catch {
    return undefined;
  }
}

/**
 * Stands for a sealed value in an etag: another after every write of it, the same at every site, and nothing that a
 * guess at the value could be tried on.
 */
export function sealedDigest({ iv, tag, ciphertext }: Sealed): string {
  return createHash("sha256").update(`${iv}.${tag}.${ciphertext}`).digest("base64url");
}
