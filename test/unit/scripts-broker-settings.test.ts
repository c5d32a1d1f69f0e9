import { expect } from "chai";
import { nodeEnvironment, renderConfiguration } from "../../scripts/broker/settings.ts";

const settings = {
  directory: "/data/broker",
  nodeName: "muster@localhost",
  user: "muster",
  password: "p4ss",
  amqpPort: 20_001,
  managementPort: 20_002,
  distributionPort: 20_003,
  epmdPort: 20_004,
};

describe("the configuration of a private node", () => {
  const lines = renderConfiguration(settings).trimEnd().split("\n");
  const value = (key: string) => lines.find((line) => line.startsWith(`${key} = `))?.split(" = ")[1];

  it("is one key and value a line", () => {
    for (const line of lines) expect(line).to.match(/^[a-z_.]+ = \S+$/);
  });

  it("listens on the loopback interface only", () => {
    const listeners = lines.filter((line) => line.startsWith("listeners."));
    expect(listeners).to.deep.equal(["listeners.tcp.loopback = 127.0.0.1:20001"]);
    expect(value("management.tcp.ip")).to.equal("127.0.0.1");
    expect(value("management.tcp.port")).to.equal("20002");
  });

  it("has its own administrator instead of guest", () => {
    expect(value("default_user")).to.equal("muster");
    expect(value("default_pass")).to.equal("p4ss");
    expect(value("default_user_tags.administrator")).to.equal("true");
  });

  it("logs no more than warnings, into files of a bounded size", () => {
    expect(value("log.file.level")).to.equal("warning");
    expect(Number(value("log.file.rotation.size"))).to.be.greaterThan(0);
    expect(Number(value("log.file.rotation.count"))).to.be.greaterThan(0);
  });
});

describe("the environment of a private node", () => {
  it("keeps every file of the node in its directory", () => {
    const paths = Object.entries(nodeEnvironment(settings, {})).filter(([, value]) => value?.startsWith("/"));
    expect(paths.map(([name]) => name)).to.include.members([
      ...["HOME", "RABBITMQ_MNESIA_DIR", "RABBITMQ_LOG_BASE", "RABBITMQ_CONFIG_FILE"],
      ...["RABBITMQ_ENABLED_PLUGINS_FILE", "RABBITMQ_CONF_ENV_FILE", "RABBITMQ_PID_FILE"],
    ]);
    for (const [name, value] of paths) expect(value, name).to.match(/^\/data\/broker\//);
  });

  it("has a name daemon of its own", () => {
    const env = nodeEnvironment(settings, {});
    expect(env).to.include({ ERL_EPMD_PORT: "20004", ERL_EPMD_ADDRESS: "127.0.0.1", RABBITMQ_DIST_PORT: "20003" });
  });

  it("takes nothing over that was meant for another broker", () => {
    const shell = { PATH: "/bin", RABBITMQ_BASE: "/other", ERL_FLAGS: "-x", HOME: "/root", NOTIFY_SOCKET: "/run/x" };
    const env = nodeEnvironment(settings, shell);
    expect(env).to.not.have.any.keys("RABBITMQ_BASE", "ERL_FLAGS", "NOTIFY_SOCKET");
    expect(env).to.include({ PATH: "/bin", HOME: "/data/broker/home" });
  });
});
