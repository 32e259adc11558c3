// Numbers out of the bytes of messages.
import type { Bytes } from "./messages";

/** Numbers of a message, copied: in its buffer they may begin where a typed array cannot. */
export function floats(bytes: Bytes): Float32Array {
  return new Float32Array(copy(bytes));
}

export function integers(bytes: Bytes): Int32Array {
  return new Int32Array(copy(bytes));
}

export function octets(bytes: Bytes): Uint8Array {
  return new Uint8Array(copy(bytes));
}

function copy(bytes: Bytes): ArrayBuffer {
  if (!bytes) return new ArrayBuffer(0);
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength).slice().buffer;
}
