// Where work waits, on the first page of an annotator: fetched at once, and again from time to time.

import { load } from "./parts.js";

const EVERY = 20000; // milliseconds
const holder = document.getElementById("waiting");

load(holder);
window.setInterval(() => document.hidden || holder.contains(document.activeElement) || load(holder), EVERY);
