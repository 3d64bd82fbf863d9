# The actions of the init scripts of i2node. A script sets its names and places, defines `checked`
# (is its configuration sound?), `ready` (does process $pid answer?) and `reloads` (can it?), and
# sources this file with the action as $1.
#
# Exit statuses are those of the Linux Standard Base (Core, "Init Script Actions"):
# 0 done, 1 failed, 2 wrong arguments, 3 not implemented, 4 not root, 5 not installed,
# 6 not configured, 7 not running;
# of status: 0 runs, 1 dead with a pid file, 2 dead with a lock file, 3 does not run, 4 unknown.
# shellcheck shell=sh disable=SC2154

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
LC_ALL=C
export LC_ALL
umask 022

say() { printf '%s\n' "$NAME: $*"; }

# The pid of the running daemon; fails when the file's process is gone or another program has its pid.
running() {
    [ -r "$PIDFILE" ] || return 1
    pid=
    read -r pid <"$PIDFILE" || [ -n "$pid" ] || return 1
    case $pid in '' | *[!0-9]*) return 1 ;; esac
    alive
}

alive() {
    [ -r "/proc/$pid/cmdline" ] || return 1
    tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q "i2node.* $COMMAND"
}

# Waits until the daemon is gone, so many seconds at most.
ended() {
    left=$(($1 * 5))
    while running; do
        [ "$left" -gt 0 ] || return 1
        left=$((left - 1))
        sleep 0.2
    done
}

# Waits until it answers; fails when it ends before.
answering() {
    left=$((START_SECONDS * 5))
    while kill -0 "$pid" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$pid/status"; do
        ready && return 0
        [ "$left" -gt 0 ] || { say "still starting, see $LOGFILE"; return 0; }
        left=$((left - 1))
        sleep 0.2
    done
    return 1
}

need_root() {
    [ "$(id -u)" = 0 ] || { say "only root may do that"; exit 4; }
}

need_program() {
    [ -x "$I2NODE" ] || { say "$I2NODE is not installed"; exit 5; }
}

need_config() {
    checked >/dev/null || { say "the configuration is wrong"; exit 6; }
}

# Of two that start or stop it, one after the other: the second would take the pid file from the first,
# and a daemon without one is nobody's. The lock is on this script's file, for there is no other to
# leave behind, and nothing that the disk could refuse.
alone() {
    exec 9<"$0"
    flock 9
}

# The pid file, unless it names another by now.
forget() {
    named=
    read -r named <"$PIDFILE" || :
    [ "$named" != "$pid" ] || rm -f "$PIDFILE"
} 2>/dev/null

start() {
    alone
    if running; then
        say "already running, pid $pid"
        return 0
    fi
    need_config
    mkdir -p "$(dirname "$PIDFILE")" || return 1
    [ -d "$(dirname "$LOGFILE")" ] || mkdir -p -m 750 "$(dirname "$LOGFILE")" || return 1
    : >>"$LOGFILE" && chmod 640 "$LOGFILE" || return 1
    logged=$(wc -c <"$LOGFILE")
    echo >"$PIDFILE" || { say "cannot write $PIDFILE, which it cannot be stopped without: see df -h"; return 1; }
    [ -d "$(dirname "$LOCKFILE")" ] || LOCKFILE=
    # A core file would hold keys; a descriptor for each session and each directory under way.
    ulimit -S -c "$COREFILE"
    ulimit -n "$NOFILE" 2>/dev/null || ulimit -S -n "$(ulimit -H -n)"
    # The shell writes its own pid and becomes the daemon: the file never names another process.
    # What the caller had open (a lock of rpm's, a pipe) is not the daemon's to keep. Its log is on
    # stderr; stdout has what a person is told once, such as a password, and no file is to keep that.
    # The lock is held until the pid is in the file; who waits for an answer does not hold it.
    # shellcheck disable=SC2016
    setsid sh -c 'echo $$ >"$0" && exec "$@" 9>&-' "$PIDFILE" "$@" \
        </dev/null >/dev/null 2>>"$LOGFILE" 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- &
    pid=$!
    exec 9>&-
    if answering; then
        [ -z "$LOCKFILE" ] || : >"$LOCKFILE"
        say "started, pid $pid"
        return 0
    fi
    forget
    say "did not start, see $LOGFILE"
    return 1
}

stop() {
    alone
    if ! running; then
        rm -f "$PIDFILE" "$LOCKFILE"
        say "not running"
        return 0
    fi
    kill -TERM "$pid" || return 1
    if ! ended "$STOP_SECONDS"; then
        # Safe: what was not acknowledged is sent again. What it had started goes with it; each child
        # leads a group of its own.
        say "does not end within $STOP_SECONDS s, killed"
        children=$(cat "/proc/$pid/task/"*/children 2>/dev/null)
        kill -KILL "$pid"
        for child in $children; do
            kill -KILL "-$child" 2>/dev/null || kill -KILL "$child" 2>/dev/null
        done
        ended 10 || { say "pid $pid does not even die"; return 1; }
    fi
    rm -f "$PIDFILE" "$LOCKFILE"
    say "stopped"
}

reload() {
    reloads || { say "reload is not implemented, restart it"; return 3; }
    running || { say "not running"; return 7; }
    need_config
    # Until it minds that signal it would die of it.
    ready || { say "still starting, reload it when it answers: see $LOGFILE"; return 1; }
    kill -HUP "$pid" || return 1
    say "reloads its configuration, pid $pid"
}

status() {
    if running; then
        say "runs, pid $pid"
        return 0
    fi
    if [ -e "$PIDFILE" ]; then
        say "dead, but $PIDFILE is there"
        return 1
    fi
    if [ -e "$LOCKFILE" ]; then
        say "dead, but $LOCKFILE is there"
        return 2
    fi
    say "not running"
    return 3
}

# Where systemd is in charge, it does it: the same daemon must not run twice. A daemon that this script
# has started is this script's.
if [ -d "$SYSTEMD" ] && ! running; then
    case ${1-} in
    restart | condrestart | try-restart | force-reload)
        # It would stop what runs, and find the configuration wrong after that.
        need_root
        ! systemctl --quiet is-active "$NAME.service" || need_config
        ;;
    esac
    case ${1-} in
    start | stop | restart | try-restart | reload) exec systemctl "$1" "$NAME.service" ;;
    condrestart) exec systemctl try-restart "$NAME.service" ;;
    force-reload) exec systemctl reload-or-restart "$NAME.service" ;;
    status) exec systemctl --no-pager status "$NAME.service" ;;
    esac
fi

case ${1-} in
start)
    need_root
    need_program
    start_daemon
    ;;
stop)
    need_root
    stop
    ;;
restart | force-reload)
    need_root
    need_program
    need_config
    stop && start_daemon
    ;;
condrestart | try-restart)
    need_root
    running || exit 0
    need_program
    need_config
    stop && start_daemon
    ;;
reload)
    need_root
    reload
    ;;
status)
    status
    ;;
*)
    echo "usage: $0 {start|stop|restart|condrestart|try-restart|reload|force-reload|status}" >&2
    exit 2
    ;;
esac
