// SPDX-License-Identifier: Apache-2.0
// The texts of `imagefs help` and of `imagefs help VERB` below the options.
#pragma once

namespace imagefs {

inline constexpr char kIntroduction[] =
    "imagefs mounts any OCI image as a read-only file tree, without unpacking it.\n"
    "\n"
    "  imagefs mount docker.io/library/alpine:3 /mnt     from a registry\n"
    "  imagefs mount oci:/srv/layout:latest /mnt         from an OCI layout on this disk\n"
    "  imagefs ls                                        list mounts\n"
    "  imagefs umount /mnt\n"
    "\n"
    "One daemon owns the store; a command starts it if none is running. imagefs help VERB explains "
    "a\n"
    "verb. The exit status says why a command failed, --json also the remedy: see imagefs(1).\n";

inline constexpr char kMountHelp[] =
    "Mounts an image on a directory. When it exits with 0, the tree can be read.\n"
    "\n"
    "  imagefs mount python:3.12 /mnt                    docker.io/library is implied\n"
    "  imagefs mount localhost:5000/app@sha256:... /mnt  HTTP is used for loopback registries\n"
    "  imagefs mount oci-archive:app.tar:v1 /mnt         also oci:DIR[:TAG], docker-archive:FILE\n"
    "  imagefs mount --rw ubuntu:24.04 /mnt              writes go to an overlay (root)\n"
    "  imagefs mount -o suid,dev alpine /mnt             allow setuid programs and devices (root)\n"
    "  imagefs mount --platform linux/arm64 alpine /mnt  another platform than this machine's\n"
    "\n"
    "Credentials are those of imagefs login, podman login and docker login, or of --creds and\n"
    "--authfile. Ctrl-C cancels the mount; what was fetched is kept for a\n"
    "day (store.keep_partial), so that the next attempt continues.\n";

inline constexpr char kUmountHelp[] =
    "Unmounts directories. One that is in use is refused, unless --lazy is given.\n"
    "\n"
    "  imagefs umount /mnt /srv/app\n"
    "  imagefs umount --all\n";

inline constexpr char kLsHelp[] =
    "With directories, only their mounts; one that is not mounted is an error.\n"
    "\n"
    "  imagefs ls\n"
    "  imagefs ls --filter state=filling -o directory,state\n"
    "  imagefs ls -q --filter reference='registry.example/*'\n";

inline constexpr char kImagesHelp[] =
    "With names, only those images: a reference, a name without tag (all its tags), a pattern, or\n"
    "the first 12 or more digits of a digest, which every verb takes in place of a reference. One\n"
    "that is not in the store is an error.\n"
    "\n"
    "  imagefs images\n"
    "  imagefs images alpine\n"
    "  imagefs images --filter used=false -o reference,disk\n"
    "  imagefs rm $(imagefs images -q 'registry.example/ci/*')\n";

inline constexpr char kPullHelp[] =
    "Fetches an image without mounting it, and returns when it is synced to disk.\n"
    "\n"
    "  imagefs pull alpine:3 && imagefs mount --pull never alpine:3 /mnt\n"
    "  imagefs pull --wait /mnt                          fetch the missing bytes of that mount\n";

inline constexpr char kRpullHelp[] =
    "Adds an image to containerd without its layers, which the daemon provides as containerd's\n"
    "snapshotter. For containerd 1.6 and 1.7, whose `ctr image pull` downloads and unpacks\n"
    "everything.\n"
    "\n"
    "  imagefs rpull docker.io/library/alpine:3\n"
    "  ctr run --rm --snapshotter imagefs docker.io/library/alpine:3 one echo hello\n"
    "  imagefs rpull --namespace k8s.io registry.example/app:1\n";

inline constexpr char kAddHelp[] =
    "Makes images available to podman, CRI-O and Buildah, whose storage.conf must name the "
    "daemon's\n"
    "store (root): additionalimagestores = [\"/var/lib/imagefs/podman\"]. They run without a pull, "
    "and\n"
    "before their bytes are local if an index is published.\n"
    "\n"
    "  imagefs add docker.io/library/alpine:3 && podman run alpine:3 echo hello\n"
    "  imagefs add --pull always alpine:3                update to what the tag is now\n"
    "  imagefs add --name localhost/app:1 oci:/srv/app   an image that has no name of its own\n"
    "  imagefs add --list\n"
    "  imagefs drop alpine:3\n";

inline constexpr char kDropHelp[] =
    "Removes images that imagefs add made available to podman, and frees the space that nothing "
    "else\n"
    "needs. Running containers are not affected; stop and remove those that must start again "
    "first.\n"
    "\n"
    "  imagefs drop docker.io/library/alpine:3\n";

inline constexpr char kExportHelp[] =
    "Adds images to a directory from which many daemons can use them in place, without a copy and\n"
    "without a network: on NFS, on the disk of a node image, or for the users of this machine.\n"
    "What is there already stays; an interrupted export goes on where it ended. Users who can\n"
    "read the directory can read the images.\n"
    "\n"
    "  imagefs export-store /srv/imagefs alpine:3 registry.example/app:1\n"
    "\n"
    "and in the config.toml of every daemon that is to use them:\n"
    "\n"
    "  [store]\n"
    "  shared = [\"/srv/imagefs\"]\n";

inline constexpr char kImportHelp[] =
    "Copies images (none named: all) of a directory made by export-store into the store.\n"
    "\n"
    "  imagefs import /media/usb/images\n"
    "  imagefs import /media/usb/images registry.example/app:1\n";

inline constexpr char kIndexHelp[] =
    "Makes the index of an image's layers, with which it can be mounted before its bytes are "
    "local,\n"
    "and publishes it. The image is not changed. With a published index, no other machine needs a "
    "full\n"
    "download before the first start.\n"
    "\n"
    "  imagefs index --push registry.example/app:1              next to the image\n"
    "  imagefs index --to registry.example/indexes alpine:3     for images one may not push to\n"
    "  imagefs index -o app.tar registry.example/app:1          an OCI archive\n"
    "  imagefs index --push --profile registry.example/app:1    with what its first run read\n"
    "  imagefs index --push --sign fleet.key registry.example/app:1\n"
    "                                   for nodes whose index.keys has the key; minisign -G makes "
    "one\n";

inline constexpr char kProfileHelp[] =
    "What the first run of an image read; it is prefetched at the next cold start on this "
    "machine.\n"
    "\n"
    "  imagefs profile show alpine:3\n"
    "  imagefs profile export alpine:3 > alpine.profile\n"
    "  imagefs profile import alpine:3 alpine.profile\n"
    "  imagefs profile clear alpine:3                   the next run is recorded again\n";

inline constexpr char kEvictHelp[] =
    "Frees the space of an image's layers that are not mounted and can be fetched again in parts "
    "from\n"
    "their registry. The image stays listed, and its next mount does not wait for the layers.\n"
    "\n"
    "  imagefs evict alpine:3\n";

inline constexpr char kCheckHelp[] =
    "Reads what is on the disk and compares it with what it should be: records, layers, trees, "
    "files;\n"
    "without images, the whole store. Damaged bytes are never served, and are fetched or made "
    "again\n"
    "when they are needed; with --repair immediately, and orphans are removed. The exit status is "
    "3 if\n"
    "damage was found.\n"
    "\n"
    "  imagefs check\n"
    "  imagefs check --repair\n"
    "  imagefs check --json alpine:3\n";

inline constexpr char kStatusHelp[] =
    "What the daemon does; with a directory, how much of the mount is present on this machine: by\n"
    "layer, the compressed bytes that are present, were fetched and were needed, and the requests "
    "in\n"
    "flight.\n"
    "--html writes the mount's page: which bytes are present and who asked for them, and the\n"
    "steps and requests of its cold start.\n"
    "\n"
    "  imagefs status\n"
    "  imagefs status --json /mnt\n"
    "  imagefs status --html page.html /mnt\n";

inline constexpr char kInspectHelp[] =
    "Shows the manifest, the configuration and the layers of an image; fetches no layer.\n"
    "\n"
    "  imagefs inspect --json alpine:3\n";

inline constexpr char kRmHelp[] =
    "Forgets images and frees the space that no other image and no mount needs. Layers in use "
    "stay\n"
    "until they are not; it says by whom. --force also removes an image that is pinned, unmounts "
    "it\n"
    "first (lazily), and accepts one that is not in the store.\n"
    "\n"
    "  imagefs rm alpine:3\n";

inline constexpr char kPinHelp[] =
    "Keeps images from being removed to make room (store.limit, prune). imagefs unpin ends that.\n"
    "\n"
    "  imagefs pin registry.example/base:1\n";

inline constexpr char kDfHelp[] =
    "Shows what occupies the store, in bytes on the disk, and what of it could be given back: "
    "what\n"
    "nothing uses, unless it is pinned or could not be fetched again.\n";

inline constexpr char kPruneHelp[] =
    "Removes what ended downloads left, and layers that no image needs.\n"
    "\n"
    "  imagefs prune --dry-run                          only say what would be removed\n"
    "  imagefs prune --all                              also images that nothing uses\n"
    "  imagefs prune --all --older 168h                 ... and that were not used for a week\n"
    "\n"
    "Never removes pinned images, or those that could not be fetched again since the archive that\n"
    "they came from is gone.\n";

inline constexpr char kLoginHelp[] =
    "Stores a user name and a password (or a token for one) once the registry has accepted them.\n"
    "They go where podman and skopeo look as well: to $REGISTRY_AUTH_FILE, $DOCKER_CONFIG, or\n"
    "auth.json in $XDG_RUNTIME_DIR/containers or where podman has it without a session, which is\n"
    "gone after a restart; or to the credential helper that the file names for the registry.\n"
    "\n"
    "  imagefs login registry.example\n"
    "  imagefs login -u me --password-stdin registry.example/team <token\n"
    "  imagefs login --authfile /root/.config/containers/auth.json registry.example  for good\n"
    "  imagefs login --get-login registry.example\n";

inline constexpr char kLogoutHelp[] =
    "Removes what login stored, also that of podman.\n"
    "\n"
    "  imagefs logout registry.example\n"
    "  imagefs logout --all\n";

inline constexpr char kDoctorHelp[] =
    "Looks at the machine and says what is wrong, what it means and what to do: kernel, FUSE, the\n"
    "store's disk, limits, configuration, systemd, containerd, podman, the kubelet, mirrors, "
    "clock.\n"
    "With an image also: credentials, the hosts that serve it, and whether they do. It needs no "
    "daemon,\n"
    "starts none and changes nothing. The exit status is 1 if there is a problem.\n"
    "\n"
    "  imagefs doctor\n"
    "  imagefs doctor registry.example/app:1\n"
    "  imagefs doctor --json\n";

inline constexpr char kDaemonHelp[] =
    "Owns the store and serves commands, in the foreground, with its log on stderr. Rarely run by\n"
    "hand: a command starts one if none is running. SIGTERM leaves mounts to the next daemon; "
    "SIGINT\n"
    "(Ctrl-C) unmounts them.\n"
    "\n"
    "  imagefs daemon\n"
    "  imagefs daemon --check-config                    only say whether its configuration is "
    "right\n";

}  // namespace imagefs
