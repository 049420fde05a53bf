/** Records on their way to the desk: one that does not arrive is kept in the browser, and sent by the next visit. */

import { isLost } from "./bundle.mjs";

/** @typedef {import("./worker_client.mjs").WorkerClient} WorkerClient */

const KEY = "dreamcache-record-";
const LATER = "The desk was not reached: this device keeps the record, and sends it when it opens the page at your desk again.";

/**
 * Send a record; what became of it.
 * @param {WorkerClient} client
 * @param {any} record
 */
export async function sendRecord(client, record) {
  try {
    return `Kept at your desk as ${(await client.ask("record", { record })).kept}.`;
  } catch (error) {
    if (!keep(record)) throw error;
    return LATER;
  }
}

/**
 * Send what earlier visits could not; how many arrived.
 * @param {WorkerClient} client
 */
export async function sendUnsent(client) {
  let arrived = 0;
  for (const [key, text] of unsent()) {
    try {
      await client.ask("record", { record: JSON.parse(text) });
      arrived++;
    } catch (error) {
      // A desk that refuses it would do so for ever.
      if (isLost(error)) return arrived;
    }
    localStorage.removeItem(key);
  }
  return arrived;
}

/** @param {any} record */
function keep(record) {
  try {
    localStorage.setItem(`${KEY}${Date.now()}`, JSON.stringify(record));
    return true;
  } catch {
    return false; // private windows may refuse
  }
}

/** @returns {[string, string][]} */
function unsent() {
  try {
    return Object.entries(localStorage).filter(([key]) => key.startsWith(KEY));
  } catch {
    return [];
  }
}
