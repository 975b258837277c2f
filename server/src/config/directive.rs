//! The directives: one table from which reading, writing, checking and defaults follow.
//!
//! Names, limits and defaults are Redis's, save where this server differs: compaction is on, and there is one worker
//! per core. Every directive of Redis 8 is known, so that existing configuration files are read and tools that ask for
//! a setting get an answer. [`Standing`] says what a directive really does.

/// What a directive does in this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// What it says.
    Honoured,
    /// Nothing. It concerns features that this server does not have, or has no need of tuning for, and is accepted so
    /// that configuration files of Redis can be used. The log names such a directive when it is set to anything but
    /// its default.
    Accepted,
    /// Only its default can be set, since anything else would promise what this server does not do.
    DefaultOnly,
}

/// When a directive can be set, and who sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// At any time.
    Anytime,
    /// Only at the start.
    AtStart,
    /// At any time if `enable-protected-configs` allows it.
    Protected,
    /// At any time, and no log may show its value.
    Secret,
    /// At any time, and patterns of CONFIG GET do not find it.
    Hidden,
    /// Only at the start, and patterns of CONFIG GET do not find it.
    HiddenAtStart,
}

/// The type of a setting, with its default and limits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// yes or no.
    Flag(bool),
    /// A whole number: default, least, most.
    Integer(i64, i64, i64),
    /// A size in bytes: default, least, most.
    Memory(i64, i64, i64),
    /// A size in bytes, or a percentage, which is held as a negative number: default, most.
    MemoryOrPercent(i64, i64),
    /// Permission bits in octal: default, most.
    Octal(i64, i64),
    /// One of these words: the index of the default.
    Choice(usize, &'static [&'static str]),
    /// Any of these words, the first of which stands for none of the others.
    Options(&'static [&'static str]),
    /// Any text.
    Text(&'static str),
    /// Any words.
    Words(&'static str),
    /// `save`.
    Save,
    /// `notify-keyspace-events`.
    Events,
    /// `client-output-buffer-limit`.
    OutputLimits,
    /// `latency-tracking-info-percentiles`.
    Percentiles(&'static str),
    /// `oom-score-adj-values`.
    OomScores(&'static str),
    /// The working directory.
    Directory,
    /// The number of workers: by default one per core, at most 8.
    Workers,
}

impl Kind {
    /// Whether the value may be several words.
    pub(crate) fn takes_words(self) -> bool {
        matches!(
            self,
            Self::Options(_)
                | Self::Words(_)
                | Self::Save
                | Self::OutputLimits
                | Self::Percentiles(_)
                | Self::OomScores(_)
        )
    }
}

/// One directive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Directive {
    /// Its place in the table.
    pub(crate) id: Id,
    /// Its name.
    pub(crate) name: &'static str,
    /// An older name.
    pub(crate) alias: Option<&'static str>,
    /// Its type.
    pub(crate) kind: Kind,
    /// When it can be set.
    pub(crate) access: Access,
    /// What it does.
    pub(crate) standing: Standing,
}

macro_rules! alias {
    () => {
        None
    };
    ($alias:literal) => {
        Some($alias)
    };
}

macro_rules! directives {
    ($( $id:ident $name:literal $( = $alias:literal )? : $kind:expr, $access:ident, $standing:ident; )*) => {
        /// A directive's place in the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub(crate) enum Id { $( $id ),* }

        /// All directives.
        pub(crate) static DIRECTIVES: &[Directive] = &[
            $( Directive {
                id: Id::$id,
                name: $name,
                alias: alias!($( $alias )?),
                kind: $kind,
                access: Access::$access,
                standing: Standing::$standing,
            } ),*
        ];
    };
}

const INT_MAX: i64 = i32::MAX as i64;
const INT_MIN: i64 = i32::MIN as i64;
const UINT_MAX: i64 = u32::MAX as i64;
const LONG_MAX: i64 = i64::MAX;
const KB: i64 = 1 << 10;
const MB: i64 = 1 << 20;
const GB: i64 = 1 << 30;

/// Levels of the log, from the most to the least talkative.
pub(crate) const LOG_LEVELS: &[&str] = &["debug", "verbose", "notice", "warning", "nothing"];
/// Who may use a protected command or directive.
pub(crate) const PROTECTED_ACTIONS: &[&str] = &["no", "yes", "local"];
/// What a signal's shutdown does.
pub(crate) const SHUTDOWN_OPTIONS: &[&str] = &["default", "save", "nosave", "now", "force"];
/// Policies of eviction.
pub(crate) const POLICIES: &[&str] = &[
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "noeviction",
];

use Kind::{
    Choice, Flag, Integer, Memory, MemoryOrPercent, Octal, Options, Percentiles, Text, Words,
};

directives! {
    // Connections.
    Port "port": Integer(6379, 0, 65535), Anytime, Honoured;
    Bind "bind": Words("* -::*"), Anytime, Honoured;
    UnixSocket "unixsocket": Text(""), AtStart, Honoured;
    UnixSocketPerm "unixsocketperm": Octal(0, 0o777), AtStart, Honoured;
    TcpBacklog "tcp-backlog": Integer(511, 0, INT_MAX), AtStart, Honoured;
    TcpKeepalive "tcp-keepalive": Integer(300, 0, INT_MAX), Anytime, Honoured;
    Timeout "timeout": Integer(0, 0, INT_MAX), Anytime, Honoured;
    MaxClients "maxclients": Integer(10_000, 1, UINT_MAX), Anytime, Honoured;
    MaxNewConnections "max-new-connections-per-cycle": Integer(10, 1, 1000), Anytime, Honoured;
    ProtectedMode "protected-mode": Flag(true), Anytime, Honoured;
    RequirePass "requirepass": Text(""), Secret, Honoured;
    ProtoMaxBulkLen "proto-max-bulk-len": Memory(512 * MB, MB, LONG_MAX), Anytime, Honoured;
    ClientQueryBufferLimit "client-query-buffer-limit": Memory(GB, MB, LONG_MAX), Anytime, Honoured;
    ClientOutputBufferLimit "client-output-buffer-limit": Kind::OutputLimits, Anytime, Honoured;
    MaxMemoryClients "maxmemory-clients": MemoryOrPercent(0, LONG_MAX), Anytime, Honoured;
    SocketMark "socket-mark-id": Integer(0, 0, UINT_MAX), AtStart, DefaultOnly;

    // The process.
    IoThreads "io-threads": Kind::Workers, AtStart, Honoured;
    Daemonize "daemonize": Flag(false), AtStart, Honoured;
    PidFile "pidfile": Text(""), AtStart, Honoured;
    LogLevel "loglevel": Choice(2, LOG_LEVELS), Anytime, Honoured;
    LogFile "logfile": Text(""), AtStart, Honoured;
    Dir "dir": Kind::Directory, Protected, Honoured;
    Databases "databases": Integer(16, 1, 65_536), AtStart, Honoured;
    EnableProtectedConfigs "enable-protected-configs": Choice(0, PROTECTED_ACTIONS), AtStart, Honoured;
    EnableDebugCommand "enable-debug-command": Choice(0, PROTECTED_ACTIONS), AtStart, Honoured;
    ShutdownOnSigint "shutdown-on-sigint": Options(SHUTDOWN_OPTIONS), Anytime, Accepted;
    ShutdownOnSigterm "shutdown-on-sigterm": Options(SHUTDOWN_OPTIONS), Anytime, Accepted;
    ShutdownTimeout "shutdown-timeout": Integer(10, 0, INT_MAX), Anytime, Accepted;
    Supervised "supervised": Choice(3, &["upstart", "systemd", "auto", "no"]), AtStart, Honoured;
    OomScoreAdj "oom-score-adj": Choice(0, &["no", "yes", "relative", "absolute"]), Anytime, Honoured;
    OomScoreAdjValues "oom-score-adj-values": Kind::OomScores("0 200 800"), Anytime, Honoured;
    DisableThp "disable-thp": Flag(true), AtStart, Honoured;
    Hz "hz": Integer(10, 0, INT_MAX), Anytime, Honoured;
    DynamicHz "dynamic-hz": Flag(true), Anytime, Accepted;

    // Memory.
    MaxMemory "maxmemory": Memory(0, 0, LONG_MAX), Anytime, Honoured;
    MaxMemoryPolicy "maxmemory-policy": Choice(7, POLICIES), Anytime, Honoured;
    MaxMemorySamples "maxmemory-samples": Integer(5, 1, 64), Anytime, Honoured;
    MaxMemoryMeasure "maxmemory-measure": Choice(0, &["used", "resident"]), Anytime, Honoured;
    MaxMemoryTenacity "maxmemory-eviction-tenacity": Integer(10, 0, 100), Anytime, Accepted;
    LfuLogFactor "lfu-log-factor": Integer(10, 0, INT_MAX), Anytime, Honoured;
    LfuDecayTime "lfu-decay-time": Integer(1, 0, INT_MAX), Anytime, Honoured;
    ActiveExpireEffort "active-expire-effort": Integer(1, 1, 10), Anytime, Honoured;
    ActiveDefrag "activedefrag": Flag(true), Anytime, Honoured;
    DefragIgnoreBytes "active-defrag-ignore-bytes": Memory(64 * KB, 1, LONG_MAX), Anytime, Honoured;
    DefragThresholdLower "active-defrag-threshold-lower": Integer(1, 0, 1000), Anytime, Honoured;
    DefragThresholdUpper "active-defrag-threshold-upper": Integer(10, 0, 1000), Anytime, Honoured;
    DefragCycleMin "active-defrag-cycle-min": Integer(1, 1, 99), Anytime, Honoured;
    DefragCycleMax "active-defrag-cycle-max": Integer(25, 1, 99), Anytime, Honoured;
    DefragMaxScanFields "active-defrag-max-scan-fields": Integer(1000, 1, LONG_MAX), Anytime, Accepted;
    JemallocBgThread "jemalloc-bg-thread": Flag(true), Anytime, Accepted;
    ActiveRehashing "activerehashing": Flag(true), Anytime, Accepted;
    LazyEviction "lazyfree-lazy-eviction": Flag(false), Anytime, Accepted;
    LazyExpire "lazyfree-lazy-expire": Flag(false), Anytime, Accepted;
    LazyServerDel "lazyfree-lazy-server-del": Flag(false), Anytime, Accepted;
    LazyUserDel "lazyfree-lazy-user-del": Flag(false), Anytime, Accepted;
    LazyUserFlush "lazyfree-lazy-user-flush": Flag(false), Anytime, Honoured;

    // Observability.
    SlowlogSlowerThan "slowlog-log-slower-than": Integer(10_000, -1, LONG_MAX), Anytime, Honoured;
    SlowlogMaxLen "slowlog-max-len": Integer(128, 0, LONG_MAX), Anytime, Honoured;
    LatencyThreshold "latency-monitor-threshold": Integer(0, 0, LONG_MAX), Anytime, Honoured;
    LatencyTracking "latency-tracking": Flag(true), Anytime, Honoured;
    LatencyPercentiles "latency-tracking-info-percentiles": Percentiles("50 99 99.9"), Anytime, Honoured;
    HttpPort "http-port": Integer(0, 0, 65535), Anytime, Honoured;
    HttpBind "http-bind": Words("127.0.0.1 -::1"), Anytime, Honoured;
    HttpPassword "http-password": Text(""), Secret, Honoured;
    HttpActions "http-actions": Flag(false), Anytime, Honoured;
    HideUserData "hide-user-data-from-log": Flag(false), Anytime, Accepted;
    SetProcTitle "set-proc-title": Flag(true), AtStart, Accepted;
    ProcTitleTemplate "proc-title-template": Text("{title} {listen-addr} {server-mode}"), Anytime, Accepted;
    AlwaysShowLogo "always-show-logo": Flag(false), AtStart, Accepted;
    CrashLog "crash-log-enabled": Flag(true), Anytime, Accepted;
    CrashMemcheck "crash-memcheck-enabled": Flag(true), Anytime, Accepted;
    IgnoreWarnings "ignore-warnings": Text(""), Anytime, Accepted;
    SyslogEnabled "syslog-enabled": Flag(false), AtStart, DefaultOnly;
    SyslogIdent "syslog-ident": Text("redis"), AtStart, Accepted;
    SyslogFacility "syslog-facility":
        Choice(1, &["user", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"]),
        AtStart, Accepted;
    WatchdogPeriod "watchdog-period": Integer(0, 0, INT_MAX), Hidden, Accepted;
    UseExitOnPanic "use-exit-on-panic": Flag(false), Hidden, Accepted;

    // Commands that this server does not have yet.
    BusyReplyThreshold "busy-reply-threshold" = "lua-time-limit": Integer(5000, 0, LONG_MAX), Anytime, Accepted;
    NotifyKeyspaceEvents "notify-keyspace-events": Kind::Events, Anytime, Accepted;
    TrackingTableMaxKeys "tracking-table-max-keys": Integer(1_000_000, 0, LONG_MAX), Anytime, Accepted;
    EnableModuleCommand "enable-module-command": Choice(0, PROTECTED_ACTIONS), AtStart, Accepted;
    LuaDeprecatedApi "lua-enable-deprecated-api": Flag(false), HiddenAtStart, Accepted;
    AclFile "aclfile": Text(""), AtStart, DefaultOnly;
    AclLogMaxLen "acllog-max-len": Integer(128, 0, LONG_MAX), Anytime, Accepted;
    AclPubsubDefault "acl-pubsub-default": Choice(1, &["allchannels", "resetchannels"]), Anytime, Accepted;
    LocaleCollate "locale-collate": Text(""), Anytime, Accepted;

    // Encodings of types that this server does not have yet.
    HashListpackEntries "hash-max-listpack-entries" = "hash-max-ziplist-entries":
        Integer(512, 0, LONG_MAX), Anytime, Accepted;
    HashListpackValue "hash-max-listpack-value" = "hash-max-ziplist-value": Memory(64, 0, LONG_MAX), Anytime, Accepted;
    ListListpackSize "list-max-listpack-size" = "list-max-ziplist-size": Integer(-2, INT_MIN, INT_MAX), Anytime, Accepted;
    ListCompressDepth "list-compress-depth": Integer(0, 0, INT_MAX), Anytime, Accepted;
    SetIntsetEntries "set-max-intset-entries": Integer(512, 0, LONG_MAX), Anytime, Accepted;
    SetListpackEntries "set-max-listpack-entries": Integer(128, 0, LONG_MAX), Anytime, Accepted;
    SetListpackValue "set-max-listpack-value": Integer(64, 0, LONG_MAX), Anytime, Accepted;
    ZsetListpackEntries "zset-max-listpack-entries" = "zset-max-ziplist-entries":
        Integer(128, 0, LONG_MAX), Anytime, Accepted;
    ZsetListpackValue "zset-max-listpack-value" = "zset-max-ziplist-value": Memory(64, 0, LONG_MAX), Anytime, Accepted;
    HllSparseBytes "hll-sparse-max-bytes": Memory(3000, 0, LONG_MAX), Anytime, Accepted;
    StreamNodeBytes "stream-node-max-bytes": Memory(4096, 0, LONG_MAX), Anytime, Accepted;
    StreamNodeEntries "stream-node-max-entries": Integer(100, 0, LONG_MAX), Anytime, Accepted;

    // Persistence.
    Save "save": Kind::Save, Anytime, Accepted;
    DbFilename "dbfilename": Text("dump.rdb"), Protected, Accepted;
    RdbChecksum "rdbchecksum": Flag(true), AtStart, Accepted;
    RdbCompression "rdbcompression": Flag(true), Anytime, Accepted;
    RdbDelSyncFiles "rdb-del-sync-files": Flag(false), Anytime, Accepted;
    RdbSaveFsync "rdb-save-incremental-fsync": Flag(true), Anytime, Accepted;
    StopWritesOnError "stop-writes-on-bgsave-error": Flag(true), Anytime, Accepted;
    SanitizeDump "sanitize-dump-payload": Choice(0, &["no", "yes", "clients"]), Anytime, Accepted;
    AppendOnly "appendonly": Flag(false), Anytime, DefaultOnly;
    AppendFilename "appendfilename": Text("appendonly.aof"), AtStart, Accepted;
    AppendDirname "appenddirname": Text("appendonlydir"), AtStart, Accepted;
    AppendFsync "appendfsync": Choice(0, &["everysec", "always", "no"]), Anytime, Accepted;
    NoFsyncOnRewrite "no-appendfsync-on-rewrite": Flag(false), Anytime, Accepted;
    AofRewritePercentage "auto-aof-rewrite-percentage": Integer(100, 0, INT_MAX), Anytime, Accepted;
    AofRewriteMinSize "auto-aof-rewrite-min-size": Memory(64 * MB, 0, LONG_MAX), Anytime, Accepted;
    AofRewriteFsync "aof-rewrite-incremental-fsync": Flag(true), Anytime, Accepted;
    AofLoadTruncated "aof-load-truncated": Flag(true), Anytime, Accepted;
    AofRdbPreamble "aof-use-rdb-preamble": Flag(true), Anytime, Accepted;
    AofTimestamps "aof-timestamp-enabled": Flag(false), Anytime, Accepted;
    AofDisableGc "aof-disable-auto-gc": Flag(false), Hidden, Accepted;
    RdbKeySaveDelay "rdb-key-save-delay": Integer(0, INT_MIN, INT_MAX), Hidden, Accepted;
    KeyLoadDelay "key-load-delay": Integer(0, INT_MIN, INT_MAX), Hidden, Accepted;
    LoadingEventsBytes "loading-process-events-interval-bytes": Integer(512 * KB, 1024, INT_MAX), Hidden, Accepted;

    // Replication.
    ReplicaOf "replicaof" = "slaveof": Words(""), AtStart, DefaultOnly;
    MasterUser "masteruser": Text(""), Secret, Accepted;
    MasterAuth "masterauth": Text(""), Secret, Accepted;
    ReplicaServeStale "replica-serve-stale-data" = "slave-serve-stale-data": Flag(true), Anytime, Accepted;
    ReplicaReadOnly "replica-read-only" = "slave-read-only": Flag(true), Anytime, Accepted;
    ReplicaIgnoreMaxMemory "replica-ignore-maxmemory" = "slave-ignore-maxmemory": Flag(true), Anytime, Accepted;
    ReplicaIgnoreDiskErrors "replica-ignore-disk-write-errors": Flag(false), Anytime, Accepted;
    ReplicaLazyFlush "replica-lazy-flush" = "slave-lazy-flush": Flag(false), Anytime, Accepted;
    ReplicaPriority "replica-priority" = "slave-priority": Integer(100, 0, INT_MAX), Anytime, Accepted;
    ReplicaAnnounced "replica-announced": Flag(true), Anytime, Accepted;
    ReplicaAnnounceIp "replica-announce-ip" = "slave-announce-ip": Text(""), Anytime, Accepted;
    ReplicaAnnouncePort "replica-announce-port" = "slave-announce-port": Integer(0, 0, 65535), Anytime, Accepted;
    ReplicaSyncBufferLimit "replica-full-sync-buffer-limit": Memory(0, 0, LONG_MAX), Anytime, Accepted;
    MinReplicasToWrite "min-replicas-to-write" = "min-slaves-to-write": Integer(0, 0, INT_MAX), Anytime, Honoured;
    MinReplicasMaxLag "min-replicas-max-lag" = "min-slaves-max-lag": Integer(10, 0, INT_MAX), Anytime, Honoured;
    ReplBacklogSize "repl-backlog-size": Memory(MB, 1, LONG_MAX), Anytime, Accepted;
    ReplBacklogTtl "repl-backlog-ttl": Integer(3600, 0, LONG_MAX), Anytime, Accepted;
    ReplTimeout "repl-timeout": Integer(60, 1, INT_MAX), Anytime, Accepted;
    ReplPingPeriod "repl-ping-replica-period" = "repl-ping-slave-period": Integer(10, 1, INT_MAX), Anytime, Accepted;
    ReplNoDelay "repl-disable-tcp-nodelay": Flag(false), Anytime, Accepted;
    ReplDisklessSync "repl-diskless-sync": Flag(true), Anytime, Accepted;
    ReplDisklessDelay "repl-diskless-sync-delay": Integer(5, 0, INT_MAX), Anytime, Accepted;
    ReplDisklessMax "repl-diskless-sync-max-replicas": Integer(0, 0, INT_MAX), Anytime, Accepted;
    ReplDisklessLoad "repl-diskless-load": Choice(0, &["disabled", "on-empty-db", "swapdb"]), Anytime, Accepted;
    ReplRdbChannel "repl-rdb-channel": Flag(true), Hidden, Accepted;
    PropagationError "propagation-error-behavior":
        Choice(0, &["ignore", "panic", "panic-on-replicas"]), Anytime, Accepted;

    // Clusters.
    ClusterEnabled "cluster-enabled": Flag(false), AtStart, DefaultOnly;
    ClusterConfigFile "cluster-config-file": Text("nodes.conf"), AtStart, Accepted;
    ClusterNodeTimeout "cluster-node-timeout": Integer(15_000, 0, LONG_MAX), Anytime, Accepted;
    ClusterPingInterval "cluster-ping-interval": Integer(0, 0, LONG_MAX), Hidden, Accepted;
    ClusterPort "cluster-port": Integer(0, 0, 65535), AtStart, Accepted;
    ClusterAnnounceIp "cluster-announce-ip": Text(""), Anytime, Accepted;
    ClusterAnnounceHostname "cluster-announce-hostname": Text(""), Anytime, Accepted;
    ClusterAnnounceNodename "cluster-announce-human-nodename": Text(""), Anytime, Accepted;
    ClusterAnnouncePort "cluster-announce-port": Integer(0, 0, 65535), Anytime, Accepted;
    ClusterAnnounceBusPort "cluster-announce-bus-port": Integer(0, 0, 65535), Anytime, Accepted;
    ClusterAnnounceTlsPort "cluster-announce-tls-port": Integer(0, 0, 65535), Anytime, Accepted;
    ClusterEndpointType "cluster-preferred-endpoint-type":
        Choice(0, &["ip", "hostname", "unknown-endpoint"]), Anytime, Accepted;
    ClusterFullCoverage "cluster-require-full-coverage": Flag(true), Anytime, Accepted;
    ClusterReadsWhenDown "cluster-allow-reads-when-down": Flag(false), Anytime, Accepted;
    ClusterPubsubWhenDown "cluster-allow-pubsubshard-when-down": Flag(true), Anytime, Accepted;
    ClusterReplicaMigration "cluster-allow-replica-migration": Flag(true), Anytime, Accepted;
    ClusterMigrationBarrier "cluster-migration-barrier": Integer(1, 0, INT_MAX), Anytime, Accepted;
    ClusterValidityFactor "cluster-replica-validity-factor" = "cluster-slave-validity-factor":
        Integer(10, 0, INT_MAX), Anytime, Accepted;
    ClusterNoFailover "cluster-replica-no-failover" = "cluster-slave-no-failover": Flag(false), Anytime, Accepted;
    ClusterSendbufLimit "cluster-link-sendbuf-limit": Memory(0, 0, LONG_MAX), Anytime, Accepted;
    ClusterSampleRatio "cluster-compatibility-sample-ratio": Integer(0, 0, 100), Anytime, Accepted;

    // TLS, and pinning to processors.
    TlsPort "tls-port": Integer(0, 0, 65535), Anytime, DefaultOnly;
    TlsCluster "tls-cluster": Flag(false), Anytime, DefaultOnly;
    TlsReplication "tls-replication": Flag(false), Anytime, DefaultOnly;
    TlsAuthClients "tls-auth-clients": Choice(1, &["no", "yes", "optional"]), Anytime, Accepted;
    TlsCertFile "tls-cert-file": Text(""), Anytime, Accepted;
    TlsKeyFile "tls-key-file": Text(""), Anytime, Accepted;
    TlsKeyFilePass "tls-key-file-pass": Text(""), Secret, Accepted;
    TlsClientCertFile "tls-client-cert-file": Text(""), Anytime, Accepted;
    TlsClientKeyFile "tls-client-key-file": Text(""), Anytime, Accepted;
    TlsClientKeyFilePass "tls-client-key-file-pass": Text(""), Secret, Accepted;
    TlsDhParamsFile "tls-dh-params-file": Text(""), Anytime, Accepted;
    TlsCaCertFile "tls-ca-cert-file": Text(""), Anytime, Accepted;
    TlsCaCertDir "tls-ca-cert-dir": Text(""), Anytime, Accepted;
    TlsProtocols "tls-protocols": Text(""), Anytime, Accepted;
    TlsCiphers "tls-ciphers": Text(""), Anytime, Accepted;
    TlsCiphersuites "tls-ciphersuites": Text(""), Anytime, Accepted;
    TlsPreferServerCiphers "tls-prefer-server-ciphers": Flag(false), Anytime, Accepted;
    TlsSessionCaching "tls-session-caching": Flag(true), Anytime, Accepted;
    TlsSessionCacheSize "tls-session-cache-size": Integer(20 * 1024, 0, INT_MAX), Anytime, Accepted;
    TlsSessionCacheTimeout "tls-session-cache-timeout": Integer(300, 0, INT_MAX), Anytime, Accepted;
    TlsNewConnections "max-new-tls-connections-per-cycle": Integer(1, 1, 1000), Anytime, Accepted;
    BindSourceAddr "bind-source-addr": Text(""), Anytime, Accepted;
    ServerCpulist "server-cpulist" = "server_cpulist": Text(""), AtStart, DefaultOnly;
    BioCpulist "bio-cpulist" = "bio_cpulist": Text(""), AtStart, Accepted;
    AofRewriteCpulist "aof-rewrite-cpulist" = "aof_rewrite_cpulist": Text(""), AtStart, Accepted;
    BgsaveCpulist "bgsave-cpulist" = "bgsave_cpulist": Text(""), AtStart, Accepted;
}

/// Directives of older versions that are read and dropped, each with one argument.
pub(crate) const DROPPED: &[&str] = &[
    "list-max-ziplist-entries",
    "list-max-ziplist-value",
    "lua-replicate-commands",
    "io-threads-do-reads",
];

impl Id {
    /// The directive's record.
    pub(crate) fn directive(self) -> &'static Directive {
        &DIRECTIVES[self as usize]
    }
}

/// The directive of this name or older name, without regard to case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Directive> {
    let is = |candidate: &str| candidate.as_bytes().eq_ignore_ascii_case(name);
    DIRECTIVES
        .iter()
        .find(|directive| is(directive.name) || directive.alias.is_some_and(is))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_places_are_right() {
        let mut names = HashSet::new();
        for (at, directive) in DIRECTIVES.iter().enumerate() {
            assert_eq!(directive.id as usize, at);
            assert!(names.insert(directive.name), "{} twice", directive.name);
            if let Some(alias) = directive.alias {
                assert!(names.insert(alias), "{alias} twice");
            }
        }
        for name in ["maxmemory", "MAXMEMORY", "slaveof", "lua-time-limit"] {
            assert!(find(name.as_bytes()).is_some());
        }
    }
}
