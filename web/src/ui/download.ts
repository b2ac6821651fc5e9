// Saves files on the reader's computer.

/** The browser needs the address of a blob until it has started to write it. */
const REVOKE_MS = 60_000;

export function download(content: Blob, fileName: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = fileName;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), REVOKE_MS);
}
