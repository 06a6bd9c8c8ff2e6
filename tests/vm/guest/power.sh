# SPDX-License-Identifier: Apache-2.0
# A machine that works until its power is cut. First it looks for what was acknowledged before (/vm/history: the lines
# that reached the host), then it goes on: BEGIN before a step, ACK when the step was told to be done.
disk
[ "$(cat /sys/block/vda/queue/write_cache)" = "write back" ] || fail "the disk has no cache that could forget"
RANDOM=$SEED
# On the disk: a mount comes back on the directory that it covered, and on no other.
mkdir -p /disk/m/1 /disk/m/2 /disk/m/3 /disk/m/rw /m/look
sync
images="app other plain"
declare -A is=()  # what became of everything: "yes", "no", or "maybe" where a cut came between
while read -r word verb what more; do
  case $word-$verb in
    BEGIN-pull | BEGIN-mount | BEGIN-rm | BEGIN-evict | BEGIN-umount) is[$what]=maybe ;;
    BEGIN-write | BEGIN-commit | BEGIN-remove) is[$verb.$what]=maybe ;;
    ACK-pull) is[$what]=yes ;;
    ACK-mount) is[$what]=$more ;;
    ACK-rm | ACK-umount) is[$what]=no ;;
    ACK-write | ACK-commit | ACK-remove) is[$verb.$what]=yes ;;
  esac
done </vm/history
of() { echo "${is[$1]:-no}"; }
said=''
trap 'say "it was: $said"' EXIT

# view NAME: a committed snapshot's file.
view() {
  local type source options said
  snap view look "$1" >/tmp/mounts || fail "no view of $1"
  read -r type source options </tmp/mounts
  [ "$type" != bind ] || options=$options,bind
  mount -t "$type" -o "$options" "$source" /m/look || fail "the view of $1 cannot be mounted: $type $source $options"
  said=$(cat /m/look/file 2>&1)
  umount /m/look
  snap rm look || fail "the view of $1 cannot be removed"
  same "the file of snapshot $1" "$1" "$said"
}

check() {
  local image dir name pulls=0 mounts=0 written=0 snapshots=0 begin listed
  # Without the network: what a pull said to be here.
  network down
  begin=$(now)
  must ifs ls
  if [ -n "$(state_of /m/look)" ]; then must ifs umount /m/look; fi  # of a check that was cut
  say "up=$(cut -d' ' -f1 /proc/uptime) start=$(since "$begin") kernel=$(uname -r)"
  for image in $images; do
    if [ "$(of "$image")" = yes ]; then
      must ifs mount -q --pull never "$REGISTRY/test/$image:1" /m/look
      right "pulled: $image" /m/look "$image.truth"
      must ifs umount /m/look
      pulls=$((pulls + 1))
    fi
  done
  # By local files alone, too: what was written by programs, and committed.
  if [ "$(of /disk/m/rw)" != no ] && [ "$(of /disk/m/rw)" != maybe ]; then
    network up
    back /disk/m/rw
    for name in "${!is[@]}"; do
      [[ $name = write.* ]] && [ "${is[$name]}" = yes ] || continue
      same "what was written" "${name#write.}" "$(cat "/disk/m/rw/var/${name#write.}" 2>&1)"
      written=$((written + 1))
    done
  fi
  for name in "${!is[@]}"; do
    [[ $name = commit.* ]] || continue
    name=${name#commit.}
    case $(of "commit.$name")-$(of "remove.$name") in
      yes-no) same "the snapshot $name" committed "$(snap stat "$name")"; view "$name"; snapshots=$((snapshots + 1)) ;;
      yes-yes) same "the removed snapshot $name" none "$(snap stat "$name")" ;;
      # Whatever became of it, it can be asked for.
      *) case $(snap stat "$name") in committed) view "$name" ;; none) ;; *) fail "the snapshot $name is neither" ;; esac ;;
    esac
  done
  network up
  for dir in /disk/m/1 /disk/m/2 /disk/m/3; do
    case $(of $dir) in
      no)
        listed=$(state_of $dir)
        same "the state of $dir, which was unmounted" "" "$listed"
        ! mounted $dir || fail "$dir was unmounted and is back" ;;
      maybe)
        if [ -n "$(state_of $dir)" ]; then
          back $dir
          right "perhaps mounted: $dir" $dir "$(image_on $dir).truth"
        fi ;;
      *)
        back $dir
        right "mounted: $dir" $dir "$(of $dir).truth"
        mounts=$((mounts + 1)) ;;
    esac
  done
  listed=$(ifs check 2>&1) || fail "check: $listed"
  say "CHECKED pulls=$pulls mounts=$mounts written=$written snapshots=$snapshots"
}
image_on() { ifs ls | awk -v at="$1" '$1 == at { sub(/.*\//, "", $2); sub(/:1$/, "", $2); print $2 }'; }

# step WORDS COMMAND...: told to the host before and after.
step() {
  local words=$1
  shift
  say "BEGIN $words"
  said=$("$@" 2>&1) || fail "$words: $* : $said"
  say "ACK $words"
}
one_of() { shift $((RANDOM % $#)); echo "$1"; }
# (Not by `grep -q`, which ends before the command has said all: then the command fails.)
is_used() { ifs ls | awk -v ref="$REGISTRY/test/$1:1" 'NR > 1 && $2 == ref { used = 1 } END { exit !used }'; }
is_listed() { ifs images | awk -v ref="$REGISTRY/test/$1:1" '$1 == ref { listed = 1 } END { exit !listed }'; }
write() { echo "$1" >"/disk/m/rw/var/$1" && sync "/disk/m/rw/var/$1"; }
commit() {
  local type source options
  snap prepare "$1.key" >/tmp/mounts && read -r type source options </tmp/mounts || return 1
  [ "$type" = bind ] && echo "$1" >"$source/file" && sync "$source/file" "$source" && snap commit "$1" "$1.key"
}

work() {
  local number=0 image dir name
  if [ -z "$(state_of /disk/m/rw)" ]; then
    step "mount /disk/m/rw plain" ifs mount -q --rw "$REGISTRY/test/plain:1" /disk/m/rw
  else
    back /disk/m/rw
    say "ACK mount /disk/m/rw plain"
  fi
  while :; do
    number=$((number + 1))
    image=$(one_of $images) dir=/disk/m/$((RANDOM % 3 + 1)) name=$BOOT.$number
    case $((RANDOM % 8)) in
      0) step "pull $image" ifs pull -q "$REGISTRY/test/$image:1" ;;
      1 | 2)
        if [ -n "$(state_of $dir)" ]; then
          step "umount $dir" ifs umount $dir
        else
          step "mount $dir $image" ifs mount -q "$REGISTRY/test/$image:1" $dir
          sha256sum $dir/usr/lib/* >/dev/null || fail "reading $dir"
        fi ;;
      3) if [ -n "$(state_of $dir)" ]; then right "$dir" $dir "$(image_on $dir).truth"; say "READ $dir"; fi ;;
      4) if ! is_used "$image" && is_listed "$image"; then step "rm $image" ifs rm "$REGISTRY/test/$image:1"; fi ;;
      5) if ! is_used "$image" && is_listed "$image"; then step "evict $image" ifs evict "$REGISTRY/test/$image:1"; fi ;;
      6)
        step "commit $name" commit "$name"
        if [ $((RANDOM % 3)) = 0 ]; then step "remove $name" snap rm "$name"; fi ;;
      7) step "write $name" write "$name" ;;
    esac
  done
}

check
if [ -z "${LAST:-}" ]; then work; fi
for dir in $(ifs ls | awk 'NR > 1 { print $1 }'); do must ifs umount "$dir"; done
must ifs stop
trap - EXIT
