// Reads the parts of a site. Browsers refuse fetch() for files, so every part is a script that calls `nomad`.

import { tableFromIPC, type Table } from "@uwdata/flechette";

declare global {
  // eslint-disable-next-line no-var
  var nomad: (name: string, base64: string) => void;
}

interface Waiting {
  promise: Promise<Uint8Array>;
  resolve: (bytes: Uint8Array) => void;
}

const TRIES = 3;
// Tells the parts of a site from those of another that was at this address before and is still in the browser's cache.
let edition = String(Date.now());
const waiting = new Map<string, Waiting>();

globalThis.nomad = (name, base64) => {
  waiting.get(name)?.resolve(decoded(base64));
};

/** Returns the bytes of a part; asked for twice at a time, it is fetched once. */
export function part(name: string): Promise<Uint8Array> {
  const there = waiting.get(name);
  if (there) return there.promise;
  let resolve: (bytes: Uint8Array) => void = () => undefined;
  let reject: (error: Error) => void = () => undefined;
  const promise = new Promise<Uint8Array>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  const entry = { promise, resolve };
  waiting.set(name, entry);
  const done = (): void => void waiting.delete(name);
  promise.then(done, done);
  fetchScript(name, 1, reject);
  return promise;
}

/** Names the edition of all parts that are read from here on. */
export function setEdition(name: string): void {
  edition = name;
}

/** Returns the Arrow table of a part. */
export async function table(name: string): Promise<Table> {
  return tableFromIPC(await part(name));
}

function fetchScript(name: string, attempt: number, reject: (error: Error) => void): void {
  const script = document.createElement("script");
  script.src = `${name.split("/").map(encodeURIComponent).join("/")}.js?${edition}`;
  script.async = true;
  script.addEventListener("load", () => {
    script.remove();
    // A script that ran has called nomad() by now, unless it was not ours.
    queueMicrotask(() => reject(new Error(`The part ${name}.js of the map holds something else: export it again.`)));
  });
  script.addEventListener("error", () => {
    script.remove();
    if (attempt < TRIES) setTimeout(() => fetchScript(name, attempt + 1, reject), 300 * attempt ** 2);
    else reject(new Error(`The part ${name}.js of the map cannot be read.`));
  });
  document.head.append(script);
}

function decoded(base64: string): Uint8Array {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}
