/** Questions to the worker and its answers; a worker that dies rejects what it was asked. */

const NOT_STARTED =
  "The page could not start what computes. Is `dreamcache web` still running, and the phone in the same network? Then try again.";

/** Of one worker, which holds one engine. */
export class WorkerClient {
  /** @param {(message: any) => void} told what the worker says without being asked */
  constructor(told) {
    this.worker = new Worker(new URL("worker.mjs", import.meta.url), { type: "module" });
    /** @type {Map<number, {resolve: (answer: any) => void, reject: (error: Error) => void}>} */
    this.waiting = new Map();
    this.last = 0;
    this.closed = "";
    this.worker.addEventListener("message", ({ data }) => {
      if (data.told !== undefined) return told(data);
      const waiting = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.error === undefined) waiting?.resolve(data.answer);
      else waiting?.reject(Object.assign(new Error(data.error), { name: data.kind }));
    });
    this.worker.addEventListener("error", (event) => this.close(event.message || NOT_STARTED));
  }

  /**
   * @param {string} ask
   * @param {any} [given]
   * @returns {Promise<any>}
   */
  ask(ask, given = {}) {
    if (this.closed) return Promise.reject(new Error(this.closed));
    const id = ++this.last;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, ask, given });
    });
  }

  /** @param {string} why */
  close(why) {
    this.closed = why;
    this.worker.terminate();
    for (const { reject } of this.waiting.values()) reject(new Error(why));
    this.waiting.clear();
  }
}
