/** Subject files, the same as Python's: one reference as the keys and values of every site (subject.py). */

import { FileError, readSafetensors, writeSafetensors } from "./safetensors.mjs";

/**
 * @typedef {import("./bundle.mjs").Facts} Facts
 * @typedef {object} Subject
 * @property {Record<string, Float32Array>} tensors keys and values by name
 * @property {string} background how the background was removed
 * @property {string} thumbnail PNG as base64
 */

const FORMAT = "dreamcache-subject-1";
export const SUFFIX = ".subject.safetensors";

/**
 * The file of a subject.
 * @param {Subject} subject
 * @param {Facts} facts
 */
export function saveSubject(subject, facts) {
  const shapes = Object.fromEntries(facts.cache_tensors.map((spec) => [spec.name, spec.shape]));
  const tensors = Object.fromEntries(
    Object.entries(subject.tensors).map(([name, data]) => [name, { data, shape: shapes[name] }]),
  );
  return writeSafetensors({
    tensors,
    metadata: {
      format: FORMAT,
      fingerprint: facts.fingerprint,
      timestep: String(facts.contract.cache_timestep),
      background: subject.background,
      thumbnail: subject.thumbnail,
    },
  });
}

/**
 * Read a file that belongs to this bundle.
 * @param {Uint8Array} file
 * @param {Facts} facts
 * @returns {Subject}
 */
export function loadSubject(file, facts) {
  const { tensors, metadata } = readSafetensors(file);
  if (metadata.format !== FORMAT) throw new FileError("this is not a subject file; choose one that ends in " + SUFFIX);
  if (metadata.fingerprint !== facts.fingerprint)
    throw new FileError("this subject was made with another bundle; make it again with this one");
  if (metadata.timestep !== undefined && metadata.timestep !== String(facts.contract.cache_timestep))
    throw new FileError("this subject was cached at another timestep; make it again");
  if (Object.keys(tensors).length !== facts.cache_tensors.length)
    throw new FileError("this subject has too few or too many tensors; make it again");
  /** @type {Record<string, Float32Array>} */
  const read = {};
  for (const { name, shape } of facts.cache_tensors) {
    const found = Object.hasOwn(tensors, name) ? tensors[name] : null;
    if (!(found?.data instanceof Float32Array) || String(found.shape) !== String(shape))
      throw new FileError(`this subject lacks ${name} of the right size; make it again`);
    if (!found.data.every(Number.isFinite)) throw new FileError(`this subject is damaged at ${name}; make it again`);
    read[name] = found.data;
  }
  return {
    tensors: read,
    background: metadata.background ?? "",
    thumbnail: metadata.thumbnail ?? "",
  };
}
