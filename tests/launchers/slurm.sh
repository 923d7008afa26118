#!/usr/bin/env bash
# A Slurm of one node on the loopback, with accounting, for tests: all it keeps lies in one folder.
#
#   slurm.sh up DIR      start munge, MariaDB, slurmdbd, slurmctld and slurmd, and wait until the node is idle
#   slurm.sh down DIR    stop these, and no others
#
# Needs root, and of Debian: slurmctld slurmd slurmdbd slurm-client munge mariadb-server. Then: export
# SLURM_CONF=DIR/slurm.conf. Accounting is there because without it submitit waits for ever for a job that died.
set -euo pipefail

folder=$(realpath -m "$2")
node=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf

wait_for() { # SECONDS COMMAND...: until the command succeeds
    local until=$((SECONDS + $1))
    shift
    until "$@" > /dev/null 2>&1; do
        if [ $SECONDS -ge $until ]; then echo "slurm.sh: gave up on: $*; see $folder/log" >&2; return 1; fi
        sleep 0.2
    done
}

sql() { mariadb --no-defaults --socket="$folder/db.sock" "$@"; }
is_idle() { [ "$(sinfo --noheader --partition=tests --format=%T)" = idle ]; }

up() {
    mkdir -p "$folder"/{state,spool,log,db}
    chmod 755 "$folder"
    dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
    chmod 600 "$folder/munge.key"
    munged --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/log/munged.log" --seed-file="$folder/munged.seed"

    mariadb-install-db --no-defaults --user=root --datadir="$folder/db" --skip-test-db \
        --auth-root-authentication-method=socket > "$folder/log/database.log" 2>&1
    mariadbd --no-defaults --user=root --datadir="$folder/db" --socket="$folder/db.sock" --port=26820 \
        --bind-address=127.0.0.1 --pid-file="$folder/mariadbd.pid" --innodb-buffer-pool-size=64M \
        >> "$folder/log/database.log" 2>&1 &
    wait_for 60 sql --execute="select 1"
    sql --execute="create database accounting;
        create user 'slurm'@'localhost' identified by 'slurm'; create user 'slurm'@'127.0.0.1' identified by 'slurm';
        grant all on accounting.* to 'slurm'@'localhost'; grant all on accounting.* to 'slurm'@'127.0.0.1'"

    cat > "$folder/slurmdbd.conf" << EOF
AuthType=auth/munge
AuthInfo=$folder/munge.socket
DbdHost=localhost
DbdPort=26819
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=26820
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounting
LogFile=$folder/log/slurmdbd.log
PidFile=$folder/slurmdbd.pid
EOF
    chmod 600 "$folder/slurmdbd.conf"
    # cred_expire: a job that was given back waits until its credential is void, 120 s by default.
    cat > "$SLURM_CONF" << EOF
ClusterName=tests
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=26819
AccountingStoragePass=$folder/munge.socket
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
MpiDefault=none
KillWait=5
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=6000 State=UNKNOWN
PartitionName=tests Nodes=$node Default=YES MaxTime=120 State=UP
EOF
    slurmdbd
    wait_for 60 timeout 5 sacctmgr --noheader list cluster
    timeout 20 sacctmgr --immediate add cluster tests > /dev/null
    slurmctld
    slurmd
    wait_for 60 is_idle
}

down() {
    scontrol shutdown || true
    for daemon in slurmd slurmctld slurmdbd mariadbd munged; do
        if [ -f "$folder/$daemon.pid" ]; then kill "$(cat "$folder/$daemon.pid")" 2> /dev/null || true; fi
    done
}

case $1 in
    up | down) "$1" ;;
    *) echo "slurm.sh up|down DIR" >&2; exit 2 ;;
esac
