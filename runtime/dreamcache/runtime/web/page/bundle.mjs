/**
 * The bundle's files: fetched in pieces that go on where a connection broke, checked, and kept on the device.
 *
 * A file is kept under its SHA-256 and compared with it whenever it is read, so nothing half-stored is ever used.
 *
 * @typedef {import("./sampling/schedulers/base.mjs").SchedulerSpec} SchedulerSpec
 * @typedef {{name: string, shape: number[], dtype: string, multiples: number}} TensorSpec
 * @typedef {{file: string, weights: string[], inputs: TensorSpec[], outputs: TensorSpec[]}} GraphSpec
 * @typedef {object} Facts what the desk says of the bundle (offers.py)
 * @property {string} name
 * @property {string} version
 * @property {any} contract complete, in the words of `dreamcache.json`
 * @property {string} contract_sha256
 * @property {string} fingerprint that subjects carry
 * @property {TensorSpec[]} cache_tensors
 * @property {number} reference_side
 * @property {number} photograph_bytes the most that the desk takes
 * @property {{least_db: number | null, device_db: number, condition_tolerance: number, max_db: number}} gates
 *
 * @typedef {(name: string, done: number, total: number) => void} Progress
 */

const TRANSFER = "TransferError";
const LOST = "LostConnection";

/** What a person can mend: connection, storage, another bundle. Its name comes through from the worker, its class does not. */
export class TransferError extends Error {
  name = TRANSFER;
}

/** The desk does not answer; what it was asked may be asked again. */
export class LostConnection extends TransferError {
  name = LOST;
}

/**
 * Whether another engine would meet the same.
 * @param {unknown} error
 */
export const isTransfer = (error) => error instanceof Error && (error.name === TRANSFER || isLost(error));

/** @param {unknown} error */
export const isLost = (error) => error instanceof Error && error.name === LOST;

const TRIES = 6;
const PAUSE_MS = 500;
const FOLDER = "dreamcache";
const NOTHING_KEPT =
  "This browser has no room to keep the model (its storage is full, or this is a private window): it draws, and fetches the model anew on every visit.";

/**
 * An answer of the desk; its own sentence when it refuses.
 * @param {string} address
 * @param {RequestInit} [options]
 */
export async function asked(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new LostConnection(
      "The connection to the desk is lost. Is `dreamcache web` still running, and the phone in the same network? Then try again.",
    );
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new TransferError(said.error ?? `the desk answers ${answer.status}; start dreamcache web again`);
}

/** Files of one bundle. */
export class BundleFiles {
  /**
   * @param {string} root address of the page, with a slash at its end
   * @param {Facts} facts
   * @param {Progress} progress
   */
  constructor(root, facts, progress) {
    this.root = root;
    this.records = facts.contract.files;
    this.progress = progress;
    this.note = "";
    /** @type {Map<string, Uint8Array<ArrayBuffer>>} */
    this.held = new Map();
  }

  /**
   * The checked bytes of a listed file.
   * @param {string} name
   * @returns {Promise<Uint8Array<ArrayBuffer>>}
   */
  async bytes(name) {
    const held = this.held.get(name);
    if (held !== undefined) return held;
    const record = this.records[name];
    const folder = await storage();
    const known = folder === null ? null : await kept(folder, record);
    if (known !== null) return known;
    const data = await this.fetched(name, record.size);
    if ((await sha256(data)) !== record.sha256 && crypto.subtle !== undefined)
      throw new TransferError(`${name} arrived damaged or was changed; start dreamcache web again and reload this page.`);
    if (folder === null && globalThis.isSecureContext) this.note = NOTHING_KEPT;
    if (folder === null || !(await this.keep(folder, record.sha256, data))) this.held.set(name, data);
    return data;
  }

  /**
   * Have files at hand for a while: they are read and compared once.
   * @template T
   * @param {string[]} names
   * @param {() => Promise<T>} use
   * @returns {Promise<T>}
   */
  async holding(names, use) {
    const lent = [];
    for (const name of names) {
      const data = await this.bytes(name);
      if (this.held.has(name)) continue;
      this.held.set(name, data);
      lent.push(name);
    }
    try {
      return await use();
    } finally {
      for (const name of lent) this.held.delete(name);
    }
  }

  /**
   * Fetch in one stream, and after a break from the byte that is missing.
   * @param {string} name
   * @param {number} size
   */
  async fetched(name, size) {
    const address = `${this.root}bundle/${name.split("/").map(encodeURIComponent).join("/")}`;
    const data = new Uint8Array(size);
    let at = 0;
    for (let attempt = 1; at < size; attempt++) {
      try {
        const answer = await asked(address, at > 0 ? { headers: { Range: `bytes=${at}-` } } : {});
        if (at > 0 && answer.status !== 206) at = 0;
        const reader = /** @type {ReadableStream<Uint8Array>} */ (answer.body).getReader();
        for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
          if (at + piece.value.length > size) throw new TransferError(`${name} is longer than it should be`);
          data.set(piece.value, at);
          at += piece.value.length;
          attempt = 1;
          this.progress(name, at, size);
        }
        if (at < size) throw new Error("cut");
      } catch (error) {
        const refused = isTransfer(error) && !isLost(error);
        if (refused || attempt >= TRIES)
          throw isTransfer(error) ? error : new LostConnection(`The connection broke off at ${name}. Try again.`);
        await new Promise((go) => setTimeout(go, PAUSE_MS * attempt));
      }
    }
    return data;
  }

  /**
   * Keep a file; whether it was.
   * @param {FileSystemDirectoryHandle} folder
   * @param {string} name
   * @param {Uint8Array<ArrayBuffer>} data
   */
  async keep(folder, name, data) {
    for (const again of [true, false]) {
      try {
        const file = await folder.getFileHandle(name, { create: true });
        // Of a worker: the only way to write that every browser has.
        const access = await /** @type {any} */ (file).createSyncAccessHandle();
        try {
          access.truncate(0);
          if (access.write(data) !== data.length) throw new DOMException("cut", "QuotaExceededError");
          access.flush();
        } finally {
          access.close();
        }
        return true;
      } catch (error) {
        await folder.removeEntry(name).catch(() => {});
        const full = error instanceof DOMException && error.name === "QuotaExceededError";
        if (!full) return false;
        if (again) await this.forgetOthers(folder);
        else this.note = NOTHING_KEPT;
      }
    }
    return false;
  }

  /**
   * Remove what other bundles left.
   * @param {FileSystemDirectoryHandle} folder
   */
  async forgetOthers(folder) {
    const mine = new Set(Object.values(this.records).map((record) => record.sha256));
    for await (const name of /** @type {any} */ (folder).keys())
      if (!mine.has(name)) await folder.removeEntry(name).catch(() => {});
  }
}

/** The folder of kept files; null where the browser has none for this page. */
async function storage() {
  try {
    const top = await navigator.storage.getDirectory();
    return await top.getDirectoryHandle(FOLDER, { create: true });
  } catch {
    return null;
  }
}

/**
 * A kept file, if it is whole.
 * @param {FileSystemDirectoryHandle} folder
 * @param {{size: number, sha256: string}} record
 */
async function kept(folder, record) {
  try {
    const file = await (await folder.getFileHandle(record.sha256)).getFile();
    const data = file.size === record.size ? new Uint8Array(await file.arrayBuffer()) : null;
    if (data !== null && (await sha256(data)) === record.sha256) return data;
    await folder.removeEntry(record.sha256);
  } catch {
    // not there, or in another tab's hands: it is fetched
  }
  return null;
}

/**
 * As hex; empty where the browser computes none, which is where it keeps nothing either.
 * @param {Uint8Array<ArrayBuffer>} data
 */
async function sha256(data) {
  if (crypto.subtle === undefined) return "";
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
