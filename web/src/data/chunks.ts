// Loads the data files of a site. Browsers refuse fetch() for local files, so every chunk is a script that calls
// `nomad` with its name and content.

import { tableFromIPC, type Table } from "@uwdata/flechette";

declare global {
  // A global that scripts can call has to be declared with var.
  var nomad: (name: string, base64: string) => void;
}

interface PendingChunk {
  promise: Promise<Uint8Array>;
  resolve: (bytes: Uint8Array) => void;
}

const MAX_ATTEMPTS = 3;
// Appended to addresses, so that the browser's cache does not mix chunks of an earlier site at the same address.
let cacheKey = String(Date.now());
const pending = new Map<string, PendingChunk>();

globalThis.nomad = (name, base64) => {
  pending.get(name)?.resolve(decodeBase64(base64));
};

/** Returns the bytes of a chunk. Concurrent requests for the same chunk share one download. */
export function loadChunk(name: string): Promise<Uint8Array> {
  const shared = pending.get(name);
  if (shared) return shared.promise;
  let resolve: (bytes: Uint8Array) => void = () => undefined;
  let reject: (error: Error) => void = () => undefined;
  const promise = new Promise<Uint8Array>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  pending.set(name, { promise, resolve });
  const remove = (): void => void pending.delete(name);
  promise.then(remove, remove);
  appendScript(name, 1, reject);
  return promise;
}

/** Sets the key that is appended to the addresses of all chunks loaded from now on. */
export function setCacheKey(key: string): void {
  cacheKey = key;
}

/** Returns the Arrow table of a chunk. */
export async function loadTable(name: string): Promise<Table> {
  return tableFromIPC(await loadChunk(name));
}

function appendScript(name: string, attempt: number, reject: (error: Error) => void): void {
  const script = document.createElement("script");
  script.src = `${name.split("/").map(encodeURIComponent).join("/")}.js?${cacheKey}`;
  script.async = true;
  script.addEventListener("load", () => {
    script.remove();
    // A chunk calls nomad() while it runs, so a promise that is still pending means another script.
    queueMicrotask(() =>
      reject(new Error(`The file ${name}.js is not a data file of this map: export the map again.`)),
    );
  });
  script.addEventListener("error", () => {
    script.remove();
    if (attempt < MAX_ATTEMPTS) setTimeout(() => appendScript(name, attempt + 1, reject), 300 * attempt ** 2);
    else reject(new Error(`The file ${name}.js of the map cannot be read.`));
  });
  document.head.append(script);
}

function decodeBase64(base64: string): Uint8Array {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}
