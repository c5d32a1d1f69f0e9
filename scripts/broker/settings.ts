/** What a private node needs to be told. All ports are on the loopback interface. */
export interface NodeSettings {
  directory: string;
  nodeName: string;
  user: string;
  password: string;
  amqpPort: number;
  managementPort: number;
  distributionPort: number;
  epmdPort: number;
}

/** Federation carries messages between sites, the shovel moves dead letters back, management is the API for policies. */
export const enabledPlugins = "[rabbitmq_management,rabbitmq_federation,rabbitmq_shovel].\n";

/** Valid for RabbitMQ 3.10 to 4.x. It holds the password: write it with mode 0600. */
export function renderConfiguration(settings: NodeSettings): string {
  const lines = {
    "listeners.tcp.loopback": `127.0.0.1:${settings.amqpPort}`,
    "management.tcp.ip": "127.0.0.1",
    "management.tcp.port": settings.managementPort,
    // Applied at the first boot only: an existing database keeps its users.
    default_user: settings.user,
    default_pass: settings.password,
    "default_user_tags.administrator": true,
    // Seconds. A dead peer is noticed after two of them: 20 s, against two minutes by default.
    heartbeat: 10,
    // Publishers are held back here. It is a guest on the machine: less than the 0.4 of a dedicated server.
    "vm_memory_high_watermark.relative": 0.3,
    "disk_free_limit.absolute": "200MB",
    // Quorum queues write one shared log ahead, and keep it in memory until it is full: 512 MB by default.
    "raft.wal_max_size_bytes": 32 * 1024 * 1024,
    "log.console": false,
    "log.file.level": "warning",
    "log.file.rotation.size": 10 * 1024 * 1024,
    "log.file.rotation.count": 3,
  };
  return Object.entries(lines)
    .map(([key, value]) => `${key} = ${value}\n`)
    .join("");
}

/**
 * The environment of the node's processes. `base` is the caller's: RabbitMQ's and Erlang's own variables are left out
 * of it, because one that is set for another broker would lead this node to that broker's files.
 */
export function nodeEnvironment(settings: NodeSettings, base: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const { directory } = settings;
  const foreign = /^(RABBITMQ_|ERL_|EPMD_|NOTIFY_SOCKET$)/;
  return {
    ...Object.fromEntries(Object.entries(base).filter(([name]) => !foreign.test(name))),
    // Erlang keeps its cookie there.
    HOME: `${directory}/home`,
    ERL_EPMD_PORT: String(settings.epmdPort),
    ERL_EPMD_ADDRESS: "127.0.0.1",
    RABBITMQ_NODENAME: settings.nodeName,
    RABBITMQ_NODE_PORT: String(settings.amqpPort),
    RABBITMQ_DIST_PORT: String(settings.distributionPort),
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: "-kernel inet_dist_use_interface {127,0,0,1}",
    RABBITMQ_CTL_ERL_ARGS: "-kernel inet_dist_use_interface {127,0,0,1}",
    RABBITMQ_MNESIA_BASE: `${directory}/mnesia`,
    RABBITMQ_MNESIA_DIR: `${directory}/mnesia/node`,
    RABBITMQ_LOG_BASE: `${directory}/log`,
    RABBITMQ_LOGS: `${directory}/log/broker.log`,
    RABBITMQ_PLUGINS_EXPAND_DIR: `${directory}/plugins`,
    RABBITMQ_GENERATED_CONFIG_DIR: `${directory}/generated`,
    RABBITMQ_FEATURE_FLAGS_FILE: `${directory}/mnesia/feature_flags`,
    RABBITMQ_PID_FILE: `${directory}/broker.pid`,
    RABBITMQ_CONF_ENV_FILE: `${directory}/no-environment-file`,
    RABBITMQ_ADVANCED_CONFIG_FILE: `${directory}/no-advanced-file`,
    RABBITMQ_CONFIG_FILE: `${directory}/rabbitmq.conf`,
    RABBITMQ_ENABLED_PLUGINS_FILE: `${directory}/enabled_plugins`,
    // The start script then becomes the Erlang machine instead of waiting for it: one process, one pid to signal.
    RUNNING_UNDER_SYSTEMD: "true",
  };
}
