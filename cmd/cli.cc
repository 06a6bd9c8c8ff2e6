// SPDX-License-Identifier: Apache-2.0
#include "cmd/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iterator>
#include <memory>
#include <numeric>
#include <utility>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/directory.h"
#include "base/text.h"
#include "cmd/mount_option_syntax.h"
#include "cmd/options.h"
#include "cmd/print.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {
namespace {

constexpr char kIntroduction[] =
    "imagefs mounts any OCI image as a read-only file tree, without unpacking it.\n"
    "\n"
    "  imagefs mount docker.io/library/alpine:3 /mnt     from a registry\n"
    "  imagefs mount oci:/srv/layout:latest /mnt         from an OCI layout on this disk\n"
    "  imagefs ls                                        list mounts\n"
    "  imagefs umount /mnt\n"
    "\n"
    "One daemon owns the store; a command starts it if none is running. imagefs help VERB explains "
    "a\n"
    "verb.\n";

constexpr char kMountHelp[] =
    "Mounts an image on a directory. When it exits with 0, the tree can be read.\n"
    "\n"
    "  imagefs mount python:3.12 /mnt                    docker.io/library is implied\n"
    "  imagefs mount localhost:5000/app@sha256:... /mnt  HTTP is used for loopback registries\n"
    "  imagefs mount oci-archive:app.tar:v1 /mnt         also oci:DIR[:TAG], docker-archive:FILE\n"
    "  imagefs mount --rw ubuntu:24.04 /mnt              writes go to an overlay (root)\n"
    "  imagefs mount -o suid,dev alpine /mnt             allow setuid programs and devices (root)\n"
    "  imagefs mount --platform linux/arm64 alpine /mnt  another platform than this machine's\n"
    "\n"
    "Credentials are read from podman's auth.json and docker's config.json, as podman login and\n"
    "docker login write them. Ctrl-C cancels the mount; what was fetched is kept for a\n"
    "day (store.keep_partial), so that the next attempt continues.\n";

constexpr char kUmountHelp[] =
    "Unmounts directories. One that is in use is refused, unless --lazy is given.\n"
    "\n"
    "  imagefs umount /mnt /srv/app\n"
    "  imagefs umount --all\n";

constexpr char kPullHelp[] =
    "Fetches an image without mounting it, and returns when it is synced to disk.\n"
    "\n"
    "  imagefs pull alpine:3 && imagefs mount --pull never alpine:3 /mnt\n"
    "  imagefs pull --wait /mnt                          fetch the missing bytes of that mount\n";

constexpr char kRpullHelp[] =
    "Adds an image to containerd without its layers, which the daemon provides as containerd's\n"
    "snapshotter. For containerd 1.6 and 1.7, whose `ctr image pull` downloads and unpacks\n"
    "everything.\n"
    "\n"
    "  imagefs rpull docker.io/library/alpine:3\n"
    "  ctr run --rm --snapshotter imagefs docker.io/library/alpine:3 one echo hello\n"
    "  imagefs rpull --namespace k8s.io registry.example/app:1\n";

constexpr char kAddHelp[] =
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

constexpr char kDropHelp[] =
    "Removes images that imagefs add made available to podman, and frees the space that nothing "
    "else\n"
    "needs. Running containers are not affected; stop and remove those that must start again "
    "first.\n"
    "\n"
    "  imagefs drop docker.io/library/alpine:3\n";

constexpr char kExportHelp[] =
    "Adds images to a directory from which many daemons can use them in place, without a copy and\n"
    "without a network: on NFS, on the disk of a node image, or for the users of this machine.\n"
    "What is there already stays; an interrupted export goes on where it ended. Whoever can read\n"
    "the directory can read the images.\n"
    "\n"
    "  imagefs export-store /srv/imagefs alpine:3 registry.example/app:1\n"
    "\n"
    "and in the config.toml of every daemon that is to use them:\n"
    "\n"
    "  [store]\n"
    "  shared = [\"/srv/imagefs\"]\n";

constexpr char kImportHelp[] =
    "Copies images (none named: all) of a directory made by export-store into the store.\n"
    "\n"
    "  imagefs import /media/usb/images\n"
    "  imagefs import /media/usb/images registry.example/app:1\n";

constexpr char kIndexHelp[] =
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

constexpr char kProfileHelp[] =
    "What the first run of an image read; it is prefetched at the next cold start on this "
    "machine.\n"
    "\n"
    "  imagefs profile show alpine:3\n"
    "  imagefs profile export alpine:3 > alpine.profile\n"
    "  imagefs profile import alpine:3 alpine.profile\n"
    "  imagefs profile clear alpine:3                   the next run is recorded again\n";

constexpr char kEvictHelp[] =
    "Frees the space of an image's layers that are not mounted and can be fetched again in parts "
    "from\n"
    "their registry. The image stays listed, and its next mount does not wait for the layers.\n"
    "\n"
    "  imagefs evict alpine:3\n";

constexpr char kCheckHelp[] =
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

constexpr char kStatusHelp[] =
    "What the daemon does; with a directory, how much of the mount is present on this machine: by\n"
    "layer, the compressed bytes that are present, were fetched and were needed, and the requests "
    "in\n"
    "flight.\n"
    "\n"
    "  imagefs status\n"
    "  imagefs status --json /mnt\n";

constexpr char kInspectHelp[] =
    "Shows the manifest, the configuration and the layers of an image; fetches no layer.\n"
    "\n"
    "  imagefs inspect --json alpine:3\n";

constexpr char kRmHelp[] =
    "Forgets images and frees the space that no other image and no mount needs. Layers in use "
    "stay\n"
    "until they are not; it says by whom. --force also removes an image that is pinned, unmounts "
    "it\n"
    "first (lazily), and accepts one that is not in the store.\n"
    "\n"
    "  imagefs rm alpine:3\n";

constexpr char kPinHelp[] =
    "Keeps images from being removed to make room (store.limit, prune). imagefs unpin ends that.\n"
    "\n"
    "  imagefs pin registry.example/base:1\n";

constexpr char kDfHelp[] =
    "Shows what occupies the store, in bytes on the disk, and what of it could be given back: "
    "what\n"
    "nothing uses, unless it is pinned or could not be fetched again.\n";

constexpr char kPruneHelp[] =
    "Removes what ended downloads left, and layers that no image needs.\n"
    "\n"
    "  imagefs prune --dry-run                          only say what would be removed\n"
    "  imagefs prune --all                              also images that nothing uses\n"
    "  imagefs prune --all --older 168h                 ... and that were not used for a week\n"
    "\n"
    "Never removes pinned images, or those that could not be fetched again since the archive that\n"
    "they came from is gone.\n";

constexpr char kDoctorHelp[] =
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

constexpr char kDaemonHelp[] =
    "Owns the store and serves commands, in the foreground, with its log on stderr. Rarely run by\n"
    "hand: a command starts one if none is running. SIGTERM leaves mounts to the next daemon; "
    "SIGINT\n"
    "(Ctrl-C) unmounts them.\n"
    "\n"
    "  imagefs daemon\n"
    "  imagefs daemon --check-config                    only say whether its configuration is "
    "right\n";

// Returns "" if the text can be parsed as a T, or the error message.
template <typename T>
std::string WhyNot(const std::string& text) {
  const absl::StatusOr<T> parsed = T::Parse(text);
  return parsed.ok() ? std::string() : std::string(parsed.status().message());
}

// Rejects an empty path: it is most likely an unset variable in a script, and must not mean the
// current directory.
std::string BadPath(const std::string& path) {
  return std::string(CheckPath(path, "the path").message());
}

// Rejects any other empty value, for the same reason.
std::string Empty(const std::string& text) { return text.empty() ? "it is empty" : ""; }

// Adds a verb. If it is the one given, the command gets these arguments.
template <typename Args>
std::pair<CLI::App*, Args*> AddVerb(CLI::App& app, Command* command, const char* name,
                                    const char* description, const char* help) {
  auto args = std::make_shared<Args>();
  CLI::App* verb = app.add_subcommand(name, description);
  verb->footer(help);
  verb->callback([command, args] { command->args = *args; });
  return {verb, args.get()};
}

// Which image of a registry, and how it is asked.
void AddRegistryOptions(CLI::App* verb, ImageOptions* image) {
  verb->add_option("--platform", image->platform, "OS/ARCH[/VARIANT] (default: this machine's)")
      ->check(WhyNot<Platform>);
  verb->add_flag("--plain-http", image->plain_http, "HTTP (default for loopback hosts only)");
  verb->add_flag("--tls-skip-verify", image->skip_tls_verify, "accept any certificate");
}

void AddImageOptions(CLI::App* verb, ImageOptions* image) {
  AddRegistryOptions(verb, image);
  verb->add_option("--pull", image->pull,
                   "missing: ask the registry if the reference is not in the store (default); "
                   "always; never")
      ->check(CLI::IsMember({"missing", "always", "never"}));
}

void AddTimeout(CLI::App* verb, ImageOptions* image) {
  verb->add_option("--timeout", image->timeout_seconds, "give up after this time (default: never)")
      ->check(CLI::Range(1, 1'000'000))
      ->type_name("SECONDS");
}

void AddReference(CLI::App* verb, std::string* reference, bool required) {
  verb->add_option("REF", *reference, "image: HOST/NAME[:TAG][@DIGEST], oci:DIR[:TAG], ...")
      ->required(required)
      ->check(WhyNot<Reference>);
}

// For a verb that takes one image.
template <typename Args>
void AddImage(CLI::App* verb, Args* args, bool required = true) {
  AddReference(verb, &args->reference, required);
  AddImageOptions(verb, &args->image);
}

void AddImages(CLI::App* verb, std::vector<std::string>* references, bool required) {
  verb->add_option("REF", *references, "images")->required(required)->check(WhyNot<Reference>);
}

void AddQuiet(CLI::App* verb, bool* quiet) { verb->add_flag("-q,--quiet", *quiet, "no progress"); }

void AddMount(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<MountArgs>(app, command, "mount", "mount an image on a directory", kMountHelp);
  AddImage(verb, args);
  AddTimeout(verb, &args->image);
  verb->add_option("DIR", args->directory, "an existing directory")->required()->check(BadPath);
  verb->add_option("--mode", args->mode,
                   "kernel: the kernel reads the image itself (root); fuse: the daemon "
                   "answers it; auto (default): kernel where possible")
      ->check(CLI::IsMember({"auto", "kernel", "fuse"}));
  verb->add_option_function<std::vector<std::string>>(
          "-o,--options",
          [mount = args](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) {
              const std::string problem = ApplyMountOptions(text, mount);
              if (!problem.empty()) throw CLI::ValidationError("-o", problem);
            }
          },
          "ro, rw, suid, dev, noexec, as for mount(8), but with nosuid and nodev as the "
          "default; also other options of this verb, e.g. eager, deadline=SECONDS")
      ->type_name("OPTIONS")
      ->allow_extra_args(false);
  verb->add_flag("--rw", args->writable, "writable, through an overlay (root)");
  verb->add_option("--upper", args->upper,
                   "with --rw: keep what is written in this directory, even after the unmount")
      ->type_name("DIR")
      ->check(BadPath);
  verb->add_option("--map-uids", args->id_map,
                   "map user and group ids of the image to others: IMAGE:HOST:COUNT[,...]")
      ->type_name("MAP")
      ->check(Empty);
  verb->add_option("--context", args->context, "SELinux context of every file")
      ->type_name("LABEL")
      ->check(Empty);
  verb->add_flag("--eager", args->eager,
                 "wait until every byte is local, even if the image could be mounted lazily");
  verb->add_option("--deadline", args->deadline_seconds,
                   "fail a read whose bytes were not fetched in this time (default: the "
                   "daemon's, 60)")
      ->check(CLI::Range(1, 1'000'000))
      ->type_name("SECONDS");
  verb->add_flag("--foreground", args->foreground,
                 "stay until Ctrl-C or until it is unmounted; leaves no daemon behind");
  AddQuiet(verb, &args->quiet);
}

void AddUmount(CLI::App& app, Command* command) {
  const auto [verb, args] = AddVerb<UmountArgs>(app, command, "umount", "unmount", kUmountHelp);
  verb->add_option("DIR", args->directories, "directories")->check(BadPath);
  verb->add_flag("--all", args->all, "everything");
  verb->add_flag("--lazy", args->lazy, "also mounts that are in use");
}

void AddPull(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<PullArgs>(app, command, "pull", "fetch an image into the store", kPullHelp);
  AddImage(verb, args, /*required=*/false);
  AddTimeout(verb, &args->image);
  verb->add_option("--wait", args->directory,
                   "instead of REF: fetch the missing bytes of the mount on that directory")
      ->type_name("DIR")
      ->check(BadPath);
  AddQuiet(verb, &args->quiet);
}

void AddRpull(CLI::App& app, Command* command) {
  const auto [verb, args] = AddVerb<RpullArgs>(
      app, command, "rpull", "add an image to containerd without its layers", kRpullHelp);
  AddImage(verb, args);
  verb->add_option("--address", args->address, "containerd's socket")
      ->capture_default_str()
      ->type_name("SOCKET")
      ->check(Empty);
  verb->add_option("--namespace", args->name_space, "of containerd")
      ->capture_default_str()
      ->type_name("NAME")
      ->check(Empty);
  verb->add_option("--snapshotter", args->snapshotter, "the daemon's name in containerd")
      ->capture_default_str()
      ->type_name("NAME")
      ->check(Empty);
  AddQuiet(verb, &args->quiet);
}

void AddAdd(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<AddArgs>(app, command, "add", "make images available to podman and CRI-O", kAddHelp);
  AddImages(verb, &args->references, /*required=*/false);
  AddImageOptions(verb, &args->image);
  verb->add_option("--name", args->name, "under which podman knows it (default: its reference)")
      ->type_name("NAME")
      ->check(WhyNot<Reference>);
  verb->add_flag("--list", args->list, "list the images that were added");
  AddQuiet(verb, &args->quiet);
}

void AddDrop(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<DropArgs>(app, command, "drop", "remove images from podman and CRI-O", kDropHelp);
  verb->add_option("NAME", args->names, "images")->required()->check(WhyNot<Reference>);
}

void AddIndex(CLI::App& app, Command* command) {
  const auto [verb, args] = AddVerb<IndexArgs>(
      app, command, "index", "make and publish the index of an image", kIndexHelp);
  AddImage(verb, args);
  verb->add_flag("--push", args->push, "into the image's repository");
  verb->add_option("--to", args->to, "into that repository")
      ->type_name("REPOSITORY")
      ->check(WhyNot<Reference>);
  verb->add_option("-o,--output", args->file, "as an OCI archive")
      ->type_name("FILE")
      ->check(BadPath);
  verb->add_flag("--profile", args->profile, "with the profile of the image");
  verb->add_option("--sign", args->sign,
                   "signed by this secret key of minisign; may be given more than once")
      ->type_name("KEY")
      ->check(BadPath)
      ->allow_extra_args(false);
  AddQuiet(verb, &args->quiet);
}

void AddSharedStores(CLI::App& app, Command* command) {
  const auto [exports, args] = AddVerb<ExportArgs>(
      app, command, "export-store", "add images to a directory that many daemons use", kExportHelp);
  exports->add_option("DIR", args->directory, "directory")->required()->check(BadPath);
  AddImages(exports, &args->references, /*required=*/true);
  AddImageOptions(exports, &args->image);
  AddQuiet(exports, &args->quiet);
  const auto [imports, import_args] = AddVerb<ImportArgs>(
      app, command, "import", "copy images from a directory made by export-store", kImportHelp);
  imports->add_option("DIR", import_args->directory, "directory")->required()->check(BadPath);
  AddImages(imports, &import_args->references, /*required=*/false);
  AddQuiet(imports, &import_args->quiet);
}

void AddProfile(CLI::App& app, Command* command) {
  const auto [verb, args] = AddVerb<ProfileArgs>(
      app, command, "profile", "what the first run of an image read", kProfileHelp);
  verb->add_option("ACTION", args->action, "show, export, import, clear")
      ->required()
      ->check(CLI::IsMember({"show", "export", "import", "clear"}));
  AddImage(verb, args);
  verb->add_option("FILE", args->file, "import: the profile (default: stdin)")->check(BadPath);
}

void AddEvict(CLI::App& app, Command* command) {
  const auto [verb, args] = AddVerb<EvictArgs>(
      app, command, "evict", "free space of layers that can be fetched again", kEvictHelp);
  AddImages(verb, &args->references, /*required=*/true);
}

void AddCheck(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<CheckArgs>(app, command, "check", "check what is on the disk for damage", kCheckHelp);
  verb->add_flag("--repair", args->repair, "fetch and remove immediately what has to be");
  AddImages(verb, &args->references, /*required=*/false);
}

void AddInspect(CLI::App& app, Command* command) {
  const auto [verb, args] = AddVerb<InspectArgs>(
      app, command, "inspect", "show manifest, configuration and layers", kInspectHelp);
  AddImage(verb, args);
}

void AddRm(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<RmArgs>(app, command, "rm", "forget images and free their space", kRmHelp);
  AddImages(verb, &args->references, /*required=*/true);
  verb->add_flag("-f,--force", args->force, "also if it is pinned, mounted or unknown");
}

void AddPins(CLI::App& app, Command* command) {
  const auto [pin, pin_args] =
      AddVerb<PinArgs>(app, command, "pin", "keep images when room is made", kPinHelp);
  AddImages(pin, &pin_args->references, /*required=*/true);
  const auto [unpin, unpin_args] = AddVerb<UnpinArgs>(app, command, "unpin", "undo pin", kPinHelp);
  AddImages(unpin, &unpin_args->references, /*required=*/true);
}

void AddPrune(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<PruneArgs>(app, command, "prune", "remove what nothing needs", kPruneHelp);
  verb->add_flag("-a,--all", args->all, "also images that nothing uses");
  verb->add_flag("-n,--dry-run", args->dry_run, "only say what would be removed");
  verb->add_option("--older", args->older, "only what was not used for this long, like 24h")
      ->type_name("DURATION")
      ->check([](const std::string& text) -> std::string {
        absl::Duration value;
        const bool valid = absl::ParseDuration(text, &value) && value >= absl::ZeroDuration() &&
                           value <= absl::Hours(24 * 3650);
        return valid ? "" : "must be a duration like 90m or 24h";
      });
}

void AddImagesVerb(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<ImagesArgs>(app, command, "images", "list the images in the store", "");
  verb->add_flag("-a,--all", args->all, "also those that only containerd or podman hold");
}

void AddStatus(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<StatusArgs>(app, command, "status",
                          "what the daemon does, or how much of a mount is present", kStatusHelp);
  verb->add_option("DIR", args->directory, "of a mount")->check(BadPath);
}

void AddDoctor(CLI::App& app, Command* command) {
  const auto [verb, args] = AddVerb<DoctorArgs>(app, command, "doctor",
                                                "find what is wrong with this machine, or why an "
                                                "image cannot be fetched",
                                                kDoctorHelp);
  AddReference(verb, &args->reference, /*required=*/false);
  AddRegistryOptions(verb, &args->image);
}

void AddDaemon(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<DaemonArgs>(app, command, "daemon", "run the daemon", kDaemonHelp);
  verb->add_option("--idle-exit", args->idle_exit_seconds,
                   "exit after this many seconds without mounts and calls (default 0: never)")
      ->check(CLI::Range(0, 1'000'000));
  verb->add_flag("--check-config", args->check_config,
                 "only check the configuration with which it would start");
  verb->add_option("--ready-fd", args->ready_fd)->group("");
}

void AddLogLevel(CLI::App& app, Command* command) {
  const auto [verb, args] = AddVerb<LogLevelArgs>(
      app, command, "log-level", "show or set how much the daemon logs until it ends", "");
  verb->add_option("LEVEL", args->level, "debug, info, warning, error")
      ->check(
          CLI::IsMember(std::vector<std::string>(std::begin(kLogLevels), std::end(kLogLevels))));
}

void AddStop(CLI::App& app, Command* command) {
  const auto [verb, args] = AddVerb<StopArgs>(
      app, command, "stop", "end the daemon; the next one takes the mounts over", "");
  verb->add_flag("--unmount", args->unmount, "forget the mounts");
}

// In the order of the help text.
void AddVerbs(CLI::App& app, Command* command) {
  AddMount(app, command);
  AddUmount(app, command);
  AddVerb<LsArgs>(app, command, "ls", "list mounts, and recorded ones that are not mounted", "");
  AddImagesVerb(app, command);
  AddPull(app, command);
  AddRpull(app, command);
  AddAdd(app, command);
  AddDrop(app, command);
  AddIndex(app, command);
  AddSharedStores(app, command);
  AddProfile(app, command);
  AddEvict(app, command);
  AddCheck(app, command);
  AddInspect(app, command);
  AddRm(app, command);
  AddPins(app, command);
  AddVerb<DfArgs>(app, command, "df", "show what occupies the store", kDfHelp);
  AddPrune(app, command);
  AddStatus(app, command);
  AddLogLevel(app, command);
  AddDoctor(app, command);
  AddDaemon(app, command);
  AddStop(app, command);
}

void AddGlobalOptions(CLI::App& app, GlobalOptions* global, std::string* check_config) {
  app.add_option("--root", global->root,
                 "the store (root: /var/lib/imagefs, others: $XDG_DATA_HOME/imagefs or "
                 "~/.local/share/imagefs)")
      ->check(BadPath);
  app.add_option("--run", global->run,
                 "sockets and private mounts (root: /run/imagefs, others: "
                 "$XDG_RUNTIME_DIR/imagefs or /tmp/imagefs-UID)")
      ->check(BadPath);
  app.add_option("--log-level", global->log_level,
                 "of a daemon that is started: debug, info, "
                 "warning, error (default info)")
      ->check(
          CLI::IsMember(std::vector<std::string>(std::begin(kLogLevels), std::end(kLogLevels))));
  app.add_option("--ca-file", global->ca_file,
                 "CAs in addition to the system's, PEM, for a daemon that is started")
      ->envname("IMAGEFS_CA_FILE")
      ->check(BadPath);
  app.add_option("--config", global->config,
                 "of a daemon that is started (root: /etc/imagefs/config.toml, others: "
                 "$XDG_CONFIG_HOME/imagefs/config.toml)")
      ->envname("IMAGEFS_CONFIG")
      ->check(BadPath);
  app.add_option("--check-config", *check_config, "check that configuration, and do nothing else")
      ->type_name("FILE")
      ->check(BadPath);
  app.add_flag("--json", global->json, "print JSON");
}

bool IsJsonAsked(absl::Span<const char* const> arguments) {
  for (const std::string_view argument : arguments) {
    if (argument == "--") return false;
    if (argument == "--json") return true;
  }
  return false;
}

CliExit UsageError(std::string_view message, std::string_view verb, bool json) {
  const std::string line =
      StrCat(Shortened(message), "; try: imagefs help", verb.empty() ? "" : " ", verb);
  return CliExit{2, json ? ErrorJson(absl::InvalidArgumentError(line)) : "",
                 StrCat("imagefs: ", OneLine(line), "\n")};
}

bool IsVerb(const CLI::App& app, const std::string& word) {
  return !app.get_subcommands([&](const CLI::App* verb) { return verb->get_name() == word; })
              .empty();
}

// Returns the edit distance: the number of letters to change, insert, delete or transpose.
size_t Distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  std::iota(d[0].begin(), d[0].end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const bool same = a[i - 1] == b[j - 1];
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (same ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

// Returns a suggestion to append to a message, or "" if nothing is similar.
std::string DidYouMean(const CLI::App& app, const std::string& word) {
  constexpr std::pair<std::string_view, std::string_view> kOtherNames[] = {
      {"list", "ls"}, {"ps", "ls"},       {"remove", "rm"}, {"delete", "rm"},
      {"rmi", "rm"},  {"info", "status"}, {"df", "status"}, {"version", "--version"}};
  for (const auto& [other, name] : kOtherNames) {
    if (word == other) return StrCat("; did you mean ", name, "?");
  }
  constexpr size_t kLongestVerb = 12;
  std::string best;
  size_t nearest = 3;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    const std::string& name = verb->get_name();
    if (word.size() > kLongestVerb) break;
    const size_t distance = Distance(word, name);
    if (distance >= nearest || distance >= name.size()) continue;
    nearest = distance;
    best = name;
  }
  return best.empty() ? "" : StrCat("; did you mean ", best, "?");
}

// Returns "" or what is wrong with the first word that is neither an option nor the value of one.
std::string CheckVerb(const CLI::App& app, absl::Span<const char* const> arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string word = arguments[i];
    if (word.starts_with('-')) {
      const CLI::Option* option = app.get_option_no_throw(word);
      if (option != nullptr && option->get_expected_max() > 0) ++i;
      continue;
    }
    if (IsVerb(app, word)) return "";
    return StrCat("\"", PrintableName(word, 60), "\" is not a verb", DidYouMean(app, word));
  }
  return "";
}

std::string CheckArguments(absl::Span<const char* const> arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (IsUtf8(arguments[i])) continue;
    return StrCat("argument ", i + 1, " is not UTF-8: \"", Printable(arguments[i], 60), "\"");
  }
  return "";
}

// CLI11 reports all remaining words; the first one is the culprit.
std::string UnexpectedArgument(const CLI::App& app, const std::string& verb) {
  const std::vector<std::string> left = app.remaining(/*recurse=*/true);
  for (const std::string& word : left) {
    if (!word.starts_with('-')) continue;
    return StrCat(verb.empty() ? "imagefs" : verb, " has no option ", PrintableName(word, 60));
  }
  return left.empty() ? "too many arguments"
                      : StrCat("\"", PrintableName(left[0], 60), "\" is one argument too many");
}

// Returns "" or which arguments conflict.
template <typename Args>
std::string CheckConflicts(const Args&) {
  return "";
}

std::string CheckConflicts(const MountArgs& mount) { return CheckMount(mount); }

std::string CheckConflicts(const PullArgs& pull) {
  if (pull.reference.empty() != pull.directory.empty()) return "";
  return "pull takes either an image or --wait DIR";
}

std::string CheckConflicts(const AddArgs& add) {
  if (add.references.empty() != add.list) return "add takes either images or --list";
  return add.name.empty() || add.references.size() == 1 ? "" : "--name is for one image";
}

std::string CheckConflicts(const IndexArgs& index) {
  const bool published = index.push || !index.to.empty() || !index.file.empty();
  return published ? "" : "index takes --push, --to REPOSITORY or -o FILE";
}

std::string CheckConflicts(const RpullArgs& rpull) {
  if (!rpull.image.plain_http && !rpull.image.skip_tls_verify) return "";
  return "--plain-http and --tls-skip-verify are not passed on to the snapshotter";
}

std::string CheckConflicts(const UmountArgs& umount) {
  if (umount.directories.empty() == umount.all) return "";
  return "umount takes either directories or --all";
}

std::string CheckConflicts(const ProfileArgs& profile) {
  if (profile.action == "import" || profile.file.empty()) return "";
  return StrCat("profile ", profile.action, " takes no FILE");
}

std::variant<Command, CliExit> Parse(int argc, const char* const* argv, std::string_view version,
                                     bool json) {
  Command command;
  std::string check_config, help_verb;
  const absl::Span<const char* const> arguments(argv + 1, static_cast<size_t>(argc) - 1);
  CLI::App app(kIntroduction, "imagefs");
  app.set_help_flag("-h,--help", "this text");
  app.set_version_flag("--version",
                       json ? VersionJson(version) : StrCat("imagefs ", version, "\n"));
  app.require_subcommand(0, 1);
  app.fallthrough();
  AddGlobalOptions(app, &command.global, &check_config);
  AddVerbs(app, &command);
  CLI::App* help = app.add_subcommand("help", "explain a verb");
  help->add_option("VERB", help_verb);
  std::string problem = CheckArguments(arguments);
  if (problem.empty()) problem = CheckVerb(app, arguments);
  if (!problem.empty()) return UsageError(problem, "", json);
  const auto chosen = [&app] {
    const auto verbs = app.get_subcommands();
    return verbs.empty() ? std::string() : verbs[0]->get_name();
  };
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForVersion& version_call) {
    return CliExit{0, version_call.what(), ""};
  } catch (const CLI::CallForHelp&) {
    const auto verbs = app.get_subcommands();
    return CliExit{0, verbs.empty() ? app.help() : verbs[0]->help("imagefs"), ""};
  } catch (const CLI::ExtrasError&) {
    return UsageError(UnexpectedArgument(app, chosen()), chosen(), json);
  } catch (const CLI::ParseError& error) {
    return UsageError(error.what(), chosen(), json);
  }
  const std::string verb = chosen();
  if (help->parsed()) {
    if (!help_verb.empty() && !IsVerb(app, help_verb)) {
      return UsageError(StrCat("\"", PrintableName(help_verb, 60), "\" is not a verb",
                               DidYouMean(app, help_verb)),
                        "", json);
    }
    std::vector<const char*> asked = {"imagefs", "--help"};
    if (!help_verb.empty()) asked.insert(asked.begin() + 1, help_verb.c_str());
    return Parse(static_cast<int>(asked.size()), asked.data(), version, /*json=*/false);
  }
  if (verb.empty() == check_config.empty()) {
    // Without a verb there was no request that JSON could answer.
    return UsageError(verb.empty() ? "no verb given" : "--check-config goes without a verb", "",
                      json && !verb.empty());
  }
  if (verb.empty()) command.args = CheckConfigArgs{std::move(check_config)};
  const auto* const daemon = std::get_if<DaemonArgs>(&command.args);
  if (daemon != nullptr && daemon->check_config) {
    command.args = CheckConfigArgs{command.global.config};
  }
  problem = std::visit([](const auto& args) { return CheckConflicts(args); }, command.args);
  if (!problem.empty()) return UsageError(problem, verb, json);
  return command;
}

}  // namespace

std::variant<Command, CliExit> ParseCommandLine(int argc, const char* const* argv,
                                                std::string_view version) {
  if (argc < 1) return CliExit{2, "", "imagefs: started without its name\n"};
  const bool json = IsJsonAsked({argv + 1, static_cast<size_t>(argc) - 1});
  // CLI11 throws exceptions; none leaves this function.
  try {
    return Parse(argc, argv, version, json);
  } catch (const std::exception& error) {
    return UsageError(error.what(), "", json);
  }
}

}  // namespace imagefs
