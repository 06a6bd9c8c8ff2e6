#include "cmd/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <numeric>

#include "absl/types/span.h"
#include "base/directory.h"
#include "base/text.h"
#include "cmd/mount_option_syntax.h"
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
    "  imagefs ls                                        what is mounted\n"
    "  imagefs umount /mnt\n"
    "\n"
    "One daemon owns the store; a command starts it where none runs. imagefs help VERB says "
    "more.\n";

constexpr char kMountHelp[] =
    "Makes the tree of an image appear in a directory. When it exits with 0, the tree is "
    "readable.\n"
    "\n"
    "  imagefs mount python:3.12 /mnt                    docker.io/library is implied\n"
    "  imagefs mount localhost:5000/app@sha256:... /mnt  loopback registries are reached by HTTP\n"
    "  imagefs mount oci-archive:app.tar:v1 /mnt         also oci:DIR[:TAG], docker-archive:FILE\n"
    "  imagefs mount --rw ubuntu:24.04 /mnt              writes go to a layer of this mount "
    "(root)\n"
    "  imagefs mount -o suid,dev alpine /mnt             setuid programs and devices count "
    "(root)\n"
    "  imagefs mount --platform linux/arm64 alpine /mnt  another platform than this machine's\n"
    "\n"
    "Credentials come from podman's auth.json and docker's config.json, as podman login and\n"
    "docker login write them. Ctrl-C gives the work up and leaves nothing behind.\n";

constexpr char kUmountHelp[] =
    "Takes mounts away. A directory that is in use is refused; --lazy detaches it all the same.\n"
    "\n"
    "  imagefs umount /mnt /srv/app\n"
    "  imagefs umount --all\n";

constexpr char kPullHelp[] =
    "Brings an image here without mounting it, and returns when it is safe on disk.\n"
    "\n"
    "  imagefs pull alpine:3 && imagefs mount --pull never alpine:3 /mnt\n"
    "  imagefs pull --wait /mnt                          what that mount still lacks\n";

constexpr char kRpullHelp[] =
    "Gives containerd an image without its layers: the daemon, which has to be containerd's\n"
    "snapshotter, shows them. For containerd 1.6 and 1.7, whose `ctr image pull` downloads and\n"
    "unpacks everything.\n"
    "\n"
    "  imagefs rpull docker.io/library/alpine:3\n"
    "  ctr run --rm --snapshotter imagefs docker.io/library/alpine:3 one echo hello\n"
    "  imagefs rpull --namespace k8s.io registry.example/app:1\n";

constexpr char kAddHelp[] =
    "Gives images to podman, CRI-O and Buildah, whose storage.conf has to name the daemon's store\n"
    "(root): additionalimagestores = [\"/var/lib/imagefs/podman\"]. They run without a pull, and\n"
    "where an index is published before their bytes are here.\n"
    "\n"
    "  imagefs add docker.io/library/alpine:3 && podman run alpine:3 echo hello\n"
    "  imagefs add --pull always alpine:3                what that name means now\n"
    "  imagefs add --name localhost/app:1 oci:/srv/app   an image that has no name of its own\n"
    "  imagefs add --list\n"
    "  imagefs drop alpine:3\n";

constexpr char kDropHelp[] =
    "Takes images from podman that it was given by imagefs add, and gives back the space that "
    "nothing\n"
    "else needs. Containers that run go on; stop and remove those that are to start again first.\n"
    "\n"
    "  imagefs drop docker.io/library/alpine:3\n";

constexpr char kIndexHelp[] =
    "Makes the index of an image's layers, with which it can be mounted before its bytes are "
    "there,\n"
    "and publishes it. The image stays what it is. Who pushes it once spares everybody else the\n"
    "full download at the first start.\n"
    "\n"
    "  imagefs index --push registry.example/app:1              beside the image\n"
    "  imagefs index --to registry.example/indexes alpine:3     for images one may not push to\n"
    "  imagefs index -o app.tar registry.example/app:1          an OCI archive\n"
    "  imagefs index --push --profile registry.example/app:1    with what its first run read\n"
    "  imagefs index --push --sign fleet.key registry.example/app:1\n"
    "                                   for nodes whose index.keys has the key; minisign -G makes "
    "one\n";

constexpr char kProfileHelp[] =
    "What the first run of an image read, and the next cold start on this machine fetches first.\n"
    "\n"
    "  imagefs profile show alpine:3\n"
    "  imagefs profile export alpine:3 > alpine.profile\n"
    "  imagefs profile import alpine:3 alpine.profile\n"
    "  imagefs profile clear alpine:3                   the next run is recorded again\n";

constexpr char kEvictHelp[] =
    "Gives the space of an image's layers back that nothing shows and that can be read in parts "
    "from\n"
    "their registry again. The image stays known, and its next mount is instant.\n"
    "\n"
    "  imagefs evict alpine:3\n";

constexpr char kCheckHelp[] =
    "Reads what is on the disk and compares it with what it should have: records, layers, trees, "
    "files;\n"
    "without images, of the whole store. Nothing that is damaged is shown; it is fetched or made "
    "again\n"
    "when it is needed, with --repair at once, and what is of no use is removed. Status 3: there "
    "was\n"
    "damage.\n"
    "\n"
    "  imagefs check\n"
    "  imagefs check --repair\n"
    "  imagefs check --json alpine:3\n";

constexpr char kStatusHelp[] =
    "What the daemon does; with a directory, how much of the mount there is on this machine: by\n"
    "layer, the compressed bytes that are here, came, and were needed, and what is under way.\n"
    "\n"
    "  imagefs status\n"
    "  imagefs status --json /mnt\n";

constexpr char kInspectHelp[] =
    "Shows the manifest, the configuration and the layers of an image; fetches no layer.\n"
    "\n"
    "  imagefs inspect --json alpine:3\n";

constexpr char kRmHelp[] =
    "Forgets images and gives back the space that no other image and no mount needs.\n"
    "\n"
    "  imagefs rm alpine:3\n";

constexpr char kDaemonHelp[] =
    "Owns the store and serves commands, in the foreground, with its log on stderr. Seldom run by\n"
    "hand: a command starts one where none runs. SIGTERM takes mounts down and remembers them for "
    "the\n"
    "next daemon; SIGINT (Ctrl-C) forgets them.\n";

// Empty when T can be made of the text.
template <typename T>
std::string WhyNot(const std::string& text) {
  const absl::StatusOr<T> parsed = T::Parse(text);
  return parsed.ok() ? std::string() : std::string(parsed.status().message());
}

// An empty path is a variable of a script that was not set, and never the current directory.
std::string BadPath(const std::string& path) {
  return std::string(CheckPath(path, "the path").message());
}

// So is any other empty value: what was meant to be asked for would be left out.
std::string Empty(const std::string& text) { return text.empty() ? "it is empty" : ""; }

void AddImageSettings(CLI::App* app, Command* command) {
  app->add_option("--platform", command->platform, "OS/ARCH[/VARIANT] (default: this machine's)")
      ->check(WhyNot<Platform>);
  app->add_flag("--plain-http", command->plain_http, "HTTP (default for loopback hosts only)");
  app->add_flag("--tls-skip-verify", command->skip_tls_verify, "accept any certificate");
  app->add_option("--pull", command->pull,
                  "missing: ask the registry if the reference is not known here (default); "
                  "always; never")
      ->check(CLI::IsMember({"missing", "always", "never"}));
}

void AddImageOptions(CLI::App* app, Command* command, bool required = true) {
  app->add_option("REF", command->reference, "image: HOST/NAME[:TAG][@DIGEST], oci:DIR[:TAG], ...")
      ->required(required)
      ->check(WhyNot<Reference>);
  AddImageSettings(app, command);
}

void AddMount(CLI::App& app, Command* command) {
  CLI::App* mount = app.add_subcommand("mount", "mount an image on a directory");
  mount->footer(kMountHelp);
  AddImageOptions(mount, command);
  mount->add_option("DIR", command->directory, "an existing directory")->required()->check(BadPath);
  mount
      ->add_option("--mode", command->mode,
                   "kernel: the kernel reads the image by itself (root); fuse: the daemon "
                   "answers it; auto (default): kernel where it can be")
      ->check(CLI::IsMember({"auto", "kernel", "fuse"}));
  mount
      ->add_option_function<std::vector<std::string>>(
          "-o,--options",
          [command](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) {
              const std::string problem = ApplyMountOptions(text, MountOptionSyntax::kCommand,
                                                            /*sloppy=*/false, command);
              if (!problem.empty()) throw CLI::ValidationError("-o", problem);
            }
          },
          "ro, rw, suid, dev, noexec, as mount(8) has them, but with nosuid and nodev as the "
          "default; other options of this verb as words, e.g. eager, deadline=SECONDS")
      ->type_name("OPTIONS")
      ->allow_extra_args(false);
  mount->add_flag("--rw", command->writable, "writable, through an overlay (root)");
  mount
      ->add_option("--upper", command->upper,
                   "with --rw: keep what is written in this directory, also after the unmount")
      ->type_name("DIR")
      ->check(BadPath);
  mount
      ->add_option("--map-uids", command->id_map,
                   "show user and group ids of the image as others: IMAGE:HOST:COUNT[,...]")
      ->type_name("MAP")
      ->check(Empty);
  mount->add_option("--context", command->context, "SELinux context of every file")
      ->type_name("LABEL")
      ->check(Empty);
  mount->add_flag("--eager", command->eager,
                  "wait until every byte is here, also when the image could be shown at once");
  mount
      ->add_option("--deadline", command->deadline_seconds,
                   "fail a read whose bytes did not come in so many seconds (default: the "
                   "daemon's, 60)")
      ->check(CLI::Range(1, 1'000'000))
      ->type_name("SECONDS");
  mount->add_flag("--foreground", command->foreground,
                  "stay until Ctrl-C or until it is unmounted; leaves no daemon behind");
  mount->add_flag("-q,--quiet", command->quiet, "no progress");
}

void AddPodmanVerbs(CLI::App& app, Command* command) {
  CLI::App* add = app.add_subcommand("add", "give images to podman and CRI-O");
  add->footer(kAddHelp);
  add->add_option("REF", command->operands, "images")->check(WhyNot<Reference>);
  AddImageSettings(add, command);
  add->add_option("--name", command->name, "under which podman knows it (default: its reference)")
      ->type_name("NAME")
      ->check(WhyNot<Reference>);
  add->add_flag("--list", command->list, "list what podman was given");
  add->add_flag("-q,--quiet", command->quiet, "no progress");

  CLI::App* drop = app.add_subcommand("drop", "take images from podman and CRI-O again");
  drop->footer(kDropHelp);
  drop->add_option("NAME", command->operands, "images")->required()->check(WhyNot<Reference>);
}

void AddVerbs(CLI::App& app, Command* command) {
  AddMount(app, command);
  CLI::App* umount = app.add_subcommand("umount", "unmount");
  umount->footer(kUmountHelp);
  umount->add_option("DIR", command->operands, "directories")->check(BadPath);
  umount->add_flag("--all", command->all, "everything");
  umount->add_flag("--lazy", command->lazy, "also when it is in use");

  app.add_subcommand("ls", "list mounts, and those that cannot be there now");
  app.add_subcommand("images", "list the images in the store");

  CLI::App* pull = app.add_subcommand("pull", "bring an image into the store");
  pull->footer(kPullHelp);
  AddImageOptions(pull, command, /*required=*/false);
  pull->add_option("--wait", command->directory,
                   "instead of REF: bring here what the mount on that directory still lacks")
      ->type_name("DIR")
      ->check(BadPath);
  pull->add_flag("-q,--quiet", command->quiet, "no progress");

  CLI::App* rpull = app.add_subcommand("rpull", "give containerd an image without its layers");
  rpull->footer(kRpullHelp);
  AddImageOptions(rpull, command);
  rpull->add_option("--address", command->address, "containerd's socket")
      ->capture_default_str()
      ->type_name("SOCKET")
      ->check(Empty);
  rpull->add_option("--namespace", command->name_space, "of containerd")
      ->capture_default_str()
      ->type_name("NAME")
      ->check(Empty);
  rpull->add_option("--snapshotter", command->snapshotter, "the daemon's name in containerd")
      ->capture_default_str()
      ->type_name("NAME")
      ->check(Empty);
  rpull->add_flag("-q,--quiet", command->quiet, "no progress");

  AddPodmanVerbs(app, command);

  CLI::App* index = app.add_subcommand("index", "make and publish the index of an image");
  index->footer(kIndexHelp);
  AddImageOptions(index, command);
  index->add_flag("--push", command->push, "into the image's repository");
  index->add_option("--to", command->to, "into that repository")
      ->type_name("REPOSITORY")
      ->check(WhyNot<Reference>);
  index->add_option("-o,--output", command->file, "as an OCI archive")
      ->type_name("FILE")
      ->check(BadPath);
  index->add_flag("--profile", command->profile, "with the profile of the image");
  index
      ->add_option("--sign", command->sign,
                   "signed by this secret key of minisign; several times for several keys")
      ->type_name("KEY")
      ->check(BadPath)
      ->allow_extra_args(false);
  index->add_flag("-q,--quiet", command->quiet, "no progress");

  CLI::App* profile = app.add_subcommand("profile", "what the first run of an image read");
  profile->footer(kProfileHelp);
  profile->add_option("ACTION", command->action, "show, export, import, clear")
      ->required()
      ->check(CLI::IsMember({"show", "export", "import", "clear"}));
  AddImageOptions(profile, command);
  profile->add_option("FILE", command->file, "import: where it is (default: stdin)")
      ->check(BadPath);

  CLI::App* evict = app.add_subcommand("evict", "give back space that can be fetched again");
  evict->footer(kEvictHelp);
  evict->add_option("REF", command->operands, "images")->required()->check(WhyNot<Reference>);

  CLI::App* check = app.add_subcommand("check", "look for damage of what is on the disk");
  check->footer(kCheckHelp);
  check->add_flag("--repair", command->repair, "fetch and remove at once what has to be");
  check->add_option("REF", command->operands, "images")->check(WhyNot<Reference>);

  CLI::App* inspect = app.add_subcommand("inspect", "show manifest, configuration and layers");
  inspect->footer(kInspectHelp);
  AddImageOptions(inspect, command);

  CLI::App* rm = app.add_subcommand("rm", "forget images and give their space back");
  rm->footer(kRmHelp);
  rm->add_option("REF", command->operands, "images")->required()->check(WhyNot<Reference>);

  CLI::App* status = app.add_subcommand("status", "what the daemon does, or how full a mount is");
  status->footer(kStatusHelp);
  status->add_option("DIR", command->directory, "of a mount")->check(BadPath);

  CLI::App* daemon = app.add_subcommand("daemon", "run the daemon");
  daemon->footer(kDaemonHelp);
  daemon
      ->add_option("--idle-exit", command->idle_exit_seconds,
                   "end after so many seconds without mounts and calls (default 0: never)")
      ->check(CLI::Range(0, 1'000'000));
  daemon->add_option("--ready-fd", command->ready_fd)->group("");

  CLI::App* stop = app.add_subcommand("stop", "end the daemon; mounts come back with the next one");
  stop->add_flag("--unmount", command->unmount, "forget the mounts");
}

void AddGlobalOptions(CLI::App& app, Command* command) {
  app.add_option("--root", command->root,
                 "the store (root: /var/lib/imagefs, others: $XDG_DATA_HOME/imagefs or "
                 "~/.local/share/imagefs)")
      ->check(BadPath);
  app.add_option("--run", command->run,
                 "sockets and private mounts (root: /run/imagefs, others: "
                 "$XDG_RUNTIME_DIR/imagefs or /tmp/imagefs-UID)")
      ->check(BadPath);
  app.add_option("--log-level", command->log_level,
                 "of a daemon that is started: debug, info, "
                 "warning, error (default info)")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}));
  app.add_option("--ca-file", command->ca_file,
                 "CAs beside the system's, PEM, for a daemon that is started")
      ->envname("IMAGEFS_CA_FILE")
      ->check(BadPath);
  app.add_option("--config", command->config,
                 "of a daemon that is started (root: /etc/imagefs/config.toml, others: "
                 "$XDG_CONFIG_HOME/imagefs/config.toml)")
      ->envname("IMAGEFS_CONFIG")
      ->check(BadPath);
  app.add_option("--check-config", command->check_config,
                 "say whether that configuration is right, and do nothing else")
      ->type_name("FILE")
      ->check(BadPath);
  app.add_flag("--json", command->json, "print JSON");
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

// How many letters are to be changed, added, left out or exchanged with their neighbours.
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

// What was meant, as a part of a message; "" where nothing comes near.
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

// "" or what is wrong with the first word that is neither an option nor the value of one.
std::string CheckVerb(const CLI::App& app, absl::Span<const char* const> arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string word = arguments[i];
    if (word.starts_with('-')) {
      const CLI::Option* option = app.get_option_no_throw(word);
      if (option != nullptr && option->get_expected_max() > 0) ++i;
      continue;
    }
    if (IsVerb(app, word)) return "";
    return StrCat("\"", PrintableName(word, 60), "\" is no verb", DidYouMean(app, word));
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

// CLI11 names all words that are left; the first of them is the one that is wrong.
std::string WhatIsTooMuch(const CLI::App& app, const std::string& verb) {
  const std::vector<std::string> left = app.remaining(/*recurse=*/true);
  for (const std::string& word : left) {
    if (!word.starts_with('-')) continue;
    return StrCat(verb.empty() ? "imagefs" : verb, " has no option ", PrintableName(word, 60));
  }
  return left.empty() ? "too many arguments"
                      : StrCat("\"", PrintableName(left[0], 60), "\" is one argument too many");
}

// "" or what of the command does not go together.
std::string CheckCommand(const Command& command) {
  const std::string& verb = command.verb;
  if (verb == "pull" && command.reference.empty() == command.directory.empty()) {
    return "pull takes either an image or --wait DIR";
  }
  if (verb == "add" && command.operands.empty() != command.list) {
    return "add takes either images or --list";
  }
  if (verb == "add" && !command.name.empty() && command.operands.size() != 1) {
    return "--name is for one image";
  }
  if (verb == "index" && !command.push && command.to.empty() && command.file.empty()) {
    return "index takes --push, --to REPOSITORY or -o FILE";
  }
  if (verb == "rpull" && (command.plain_http || command.skip_tls_verify)) {
    return "--plain-http and --tls-skip-verify do not reach the snapshotter";
  }
  if (verb == "umount" && command.operands.empty() != command.all) {
    return "umount takes either directories or --all";
  }
  if (verb == "profile" && command.action != "import" && !command.file.empty()) {
    return StrCat("profile ", command.action, " takes no FILE");
  }
  return verb == "mount" ? CheckMount(command) : "";
}

std::variant<Command, CliExit> Parse(int argc, const char* const* argv, std::string_view version,
                                     bool json) {
  Command command;
  std::string help_verb;
  const absl::Span<const char* const> arguments(argv + 1, static_cast<size_t>(argc) - 1);
  CLI::App app(kIntroduction, "imagefs");
  app.set_help_flag("-h,--help", "this text");
  app.set_version_flag("--version",
                       json ? VersionJson(version) : StrCat("imagefs ", version, "\n"));
  app.require_subcommand(0, 1);
  app.fallthrough();
  AddGlobalOptions(app, &command);
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
    return UsageError(WhatIsTooMuch(app, chosen()), chosen(), json);
  } catch (const CLI::ParseError& error) {
    return UsageError(error.what(), chosen(), json);
  }
  command.verb = chosen();
  if (help->parsed()) {
    if (!help_verb.empty() && !IsVerb(app, help_verb)) {
      return UsageError(
          StrCat("\"", PrintableName(help_verb, 60), "\" is no verb", DidYouMean(app, help_verb)),
          "", json);
    }
    std::vector<const char*> asked = {"imagefs", "--help"};
    if (!help_verb.empty()) asked.insert(asked.begin() + 1, help_verb.c_str());
    return Parse(static_cast<int>(asked.size()), asked.data(), version, /*json=*/false);
  }
  if (command.verb.empty() == command.check_config.empty()) {
    // Without a verb nothing was asked for that JSON could be the answer to.
    return UsageError(command.verb.empty() ? "no verb given" : "--check-config goes without a verb",
                      "", json && !command.verb.empty());
  }
  problem = CheckCommand(command);
  if (!problem.empty()) return UsageError(problem, command.verb, json);
  return command;
}

}  // namespace

std::variant<Command, CliExit> ParseCommandLine(int argc, const char* const* argv,
                                                std::string_view version) {
  if (argc < 1) return CliExit{2, "", "imagefs: started without its name\n"};
  const bool json = IsJsonAsked({argv + 1, static_cast<size_t>(argc) - 1});
  // CLI11 reports by exceptions; none leaves this function.
  try {
    return Parse(argc, argv, version, json);
  } catch (const std::exception& error) {
    return UsageError(error.what(), "", json);
  }
}

}  // namespace imagefs
