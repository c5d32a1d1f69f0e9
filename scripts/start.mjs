// What `npm start` runs: plain JavaScript, since nothing is installed yet on a fresh clone.
import "./node-version.mjs";

const { bootstrap } = await import("./bootstrap.mjs");
await bootstrap("./start.ts");
