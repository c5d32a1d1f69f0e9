// No imports here, and nothing newer than 2015: an old Node must get as far as the message.
const needed = [20, 19];
const running = process.versions.node.split(".").map(Number);

if (running[0] < needed[0] || (running[0] === needed[0] && running[1] < needed[1])) {
  console.error(
    "Muster needs Node " +
      needed.join(".") +
      " or later, and this is Node " +
      process.versions.node +
      " (" +
      process.execPath +
      "). Get a later one from https://nodejs.org or with: nvm install 22",
  );
  process.exit(1);
}
