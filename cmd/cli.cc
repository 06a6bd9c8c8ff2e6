// SPDX-License-Identifier: Apache-2.0
#include "cmd/cli.h"

#include <strings.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/directory.h"
#include "base/failure.h"
#include "base/similar.h"
#include "base/text.h"
#include "cmd/call_credentials.h"
#include "cmd/command_check.h"
#include "cmd/completion.h"
#include "cmd/file_help.h"
#include "cmd/list_filter.h"
#include "cmd/mount_option_syntax.h"
#include "cmd/options.h"
#include "cmd/print.h"
#include "cmd/run_help.h"
#include "cmd/verb_help.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {
namespace {

constexpr std::string_view kCompleteVerb = "__complete";

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

void AddAuthFile(CLI::App* verb, std::string* file) {
  verb->add_option("--authfile", *file, "credentials: only those of this auth.json or config.json")
      ->type_name("FILE")
      ->check(BadPath);
}

// Which image of a registry, and how it is asked.
void AddRegistryOptions(CLI::App* verb, ImageOptions* image) {
  verb->add_option("--platform", image->platform, "OS/ARCH[/VARIANT] (default: this machine's)")
      ->check(WhyNot<Platform>);
  verb->add_flag("--plain-http", image->plain_http, "HTTP (default for loopback hosts only)");
  verb->add_flag("--tls-skip-verify", image->skip_tls_verify, "accept any certificate");
  verb->add_option_function<std::string>(
          "--creds",
          [image](const std::string& text) {
            const std::string problem = ApplyCredentials(text, image);
            if (!problem.empty()) throw CLI::ValidationError("--creds", problem);
          },
          "for the registry, in this call only; without a password it asks for it")
      ->type_name("USER[:PASSWORD]");
  AddAuthFile(verb, &image->auth_file);
}

void AddImageOptions(CLI::App* verb, ImageOptions* image) {
  AddRegistryOptions(verb, image);
  verb->add_option("--pull", image->pull,
                   "missing: ask the registry if the reference is not in the store (default); "
                   "always; never")
      ->check(CLI::IsMember({"missing", "always", "never"}));
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
          "default; uid=, gid=, umask=, allow_other, as for other FUSE file systems; also other "
          "options of "
          "this verb, e.g. eager, deadline=SECONDS")
      ->type_name("OPTIONS")
      ->allow_extra_args(false);
  verb->add_flag("--rw", args->writable,
                 "writable, through an overlay (root, or root of a user and mount namespace)");
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
  verb->add_flag("-a,--all", args->all, "everything");
  verb->add_flag("-l,--lazy", args->lazy, "also mounts that are in use");
}

void AddPull(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<PullArgs>(app, command, "pull", "fetch an image into the store", kPullHelp);
  AddImage(verb, args, /*required=*/false);
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

std::string NotAbsolute(const std::string& path) {
  return path.starts_with('/') ? "" : "a path in an image is absolute";
}

void AddEager(CLI::App* verb, bool* eager) {
  verb->add_flag("--eager", *eager,
                 "fetch and verify the whole image first, even if it could be read lazily");
}

void AddCat(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<CatArgs>(app, command, "cat", "print files of an image", kCatHelp);
  AddImage(verb, args);
  verb->add_option("PATH", args->paths, "files in the image")->required()->check(NotAbsolute);
  AddEager(verb, &args->eager);
  AddQuiet(verb, &args->quiet);
}

void AddCopy(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<CopyArgs>(app, command, "cp", "copy files out of an image", kCopyHelp);
  verb->add_option("REF:PATH", args->source, "image, and absolute path in it")
      ->required()
      ->check(Empty);
  verb->add_option("DST", args->destination, "where to; - = a tar to stdout")
      ->required()
      ->check(BadPath);
  AddImageOptions(verb, &args->image);
  verb->add_flag("-L,--follow-link", args->follow, "copy what PATH links to, not the link");
  AddEager(verb, &args->eager);
  AddQuiet(verb, &args->quiet);
}

void AddListFiles(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<ListFilesArgs>(app, command, "ls-files", "list files of an image", kListFilesHelp);
  AddImage(verb, args);
  verb->add_option("PATH", args->path, "in the image (default /)")->check(NotAbsolute);
  verb->add_flag("-l,--long", args->long_format, "with mode, owner, size, time and target");
  verb->add_flag("-0,--null", args->null, "end each line with a NUL");
  verb->add_flag("--layer", args->layer, "with the layer that each file comes from");
  verb->add_option("--depth", args->depth, "descend at most N directories (default: all)")
      ->type_name("N")
      ->check(CLI::Range(0, 1'000'000));
  AddEager(verb, &args->eager);
  AddQuiet(verb, &args->quiet);
}

void AddExportTree(CLI::App& app, Command* command) {
  const auto [verb, args] = AddVerb<ExportTreeArgs>(
      app, command, "export", "write the tree of an image as one tar to stdout", kExportTreeHelp);
  AddImage(verb, args);
  AddQuiet(verb, &args->quiet);
}

void AddDiff(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<DiffArgs>(app, command, "diff", "compare the trees of two images", kDiffHelp);
  AddReference(verb, &args->before, /*required=*/true);
  verb->add_option("REF2", args->after, "the other image")->required()->check(WhyNot<Reference>);
  AddImageOptions(verb, &args->image);
  verb->add_flag("--times", args->times, "compare times of modification");
  verb->add_flag("--exit-code", args->exit_code, "exit with 1 if there are differences");
  AddEager(verb, &args->eager);
  AddQuiet(verb, &args->quiet);
}

void AddFiles(CLI::App& app, Command* command) {
  AddCat(app, command);
  AddCopy(app, command);
  AddListFiles(app, command);
  AddExportTree(app, command);
  AddDiff(app, command);
}

void AddRunOptions(CLI::App* verb, RunOptions* options) {
  AddReference(verb, &options->reference, /*required=*/true);
  AddImageOptions(verb, &options->image);
  verb->add_option("-e,--env", options->environment,
                   "set a variable, or pass it on from here; may be given more than once")
      ->type_name("NAME[=VALUE]")
      ->check(Empty)
      ->allow_extra_args(false);
  verb->add_option("-u,--user", options->user, "names or numbers (default: the image's)")
      ->type_name("USER[:GROUP]")
      ->check(Empty);
  verb->add_option("-w,--workdir", options->directory, "in the image (default: the image's)")
      ->type_name("PATH")
      ->check(NotAbsolute);
  verb->add_flag("--read-only", options->read_only, "without a writable overlay");
  AddQuiet(verb, &options->quiet);
}

// What follows the image is the command, with its own options.
void AddCommandOptions(CLI::App* verb, RunOptions* options) {
  verb->add_option("--entrypoint", options->entrypoint,
                   "in place of the image's, whose command is then dropped; may be empty")
      ->type_name("PROGRAM");
  verb->add_option("CMD", options->command, "program and arguments (default: the image's)");
  verb->positionals_at_end();
}

void AddContainerOptions(CLI::App* verb, RunArgs* args) {
  verb->add_option_function<std::vector<std::string>>(
          "--bind",
          [args](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) {
              ParseBind(text, &args->binds.emplace_back());
            }
          },
          "show a file or directory of this machine; may be given more than once")
      ->type_name("SRC:DST[:ro]")
      ->check([](const std::string& text) {
        BindArg bind;
        return ParseBind(text, &bind);
      })
      ->allow_extra_args(false);
  verb->add_option("--keep", args->keep,
                   "keep what is written in this directory, and continue with what it has")
      ->type_name("DIR")
      ->check(BadPath);
}

void AddRuns(CLI::App& app, Command* command) {
  const auto [run, run_args] =
      AddVerb<RunArgs>(app, command, "run", "run a program of an image", kRunHelp);
  AddRunOptions(run, &run_args->options);
  AddCommandOptions(run, &run_args->options);
  AddContainerOptions(run, run_args);
  const auto [shell, shell_args] =
      AddVerb<RunArgs>(app, command, "shell", "run the shell of an image", kShellHelp);
  shell_args->shell = true;
  AddRunOptions(shell, &shell_args->options);
  AddContainerOptions(shell, shell_args);
  const auto [bundle, bundle_args] =
      AddVerb<BundleArgs>(app, command, "bundle", "make a bundle for an OCI runtime", kBundleHelp);
  AddRunOptions(bundle, &bundle_args->options);
  bundle->add_option("DIR", bundle_args->directory, "directory, is made if it does not exist")
      ->required()
      ->check(BadPath);
  AddCommandOptions(bundle, &bundle_args->options);
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

// Returns "" or why `text` is no list of columns; adds them to `columns`, if it is not null.
std::string ParseColumns(const std::string& text, const std::vector<std::string>& all,
                         std::vector<std::string>* columns) {
  for (const std::string_view part : Split(text, ',')) {
    const auto found = std::find_if(all.begin(), all.end(), [part](const std::string& column) {
      return column.size() == part.size() &&
             strncasecmp(column.c_str(), part.data(), part.size()) == 0;
    });
    if (found == all.end()) {
      return StrCat("\"", PrintableName(part, 60), "\" is no column; the columns are ",
                    CLI::detail::join(all, ", "));
    }
    if (columns != nullptr) columns->push_back(*found);
  }
  return "";
}

// `name`: the column that --quiet is short for.
void AddListOptions(CLI::App* verb, ListOptions* list, const std::vector<std::string>& columns,
                    absl::Span<const std::string_view> keys, const std::string& name) {
  verb->add_option("--filter", list->filters,
                   StrCat("only what matches the pattern: ", CLI::detail::join(keys, ", ")))
      ->type_name("KEY=PATTERN")
      ->allow_extra_args(false)
      ->check([keys](const std::string& filter) { return ListFilter::WhyNot(filter, keys); });
  verb->add_option_function<std::string>(
          "-o,--output",
          [list, columns](const std::string& text) {
            list->columns.clear();
            (void)ParseColumns(text, columns, &list->columns);
          },
          "these columns, separated by commas")
      ->type_name("COLUMNS")
      ->check([columns](const std::string& text) { return ParseColumns(text, columns, nullptr); });
  verb->add_flag_callback(
      "-n,--noheadings", [list] { list->headings = false; }, "no line of headings");
  verb->add_flag_callback(
      "-q,--quiet",
      [list, name] {
        list->columns = {name};
        list->headings = false;
      },
      StrCat("only the column ", name, ", without heading"));
}

void AddLs(CLI::App& app, Command* command) {
  const auto [verb, args] = AddVerb<LsArgs>(
      app, command, "ls", "list mounts, and recorded ones that are not mounted", kLsHelp);
  verb->add_option("DIR", args->directories, "directories of mounts")->check(BadPath);
  AddListOptions(verb, &args->list, MountColumns(), MountFilterKeys(), "DIRECTORY");
}

void AddImagesVerb(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<ImagesArgs>(app, command, "images", "list the images in the store", kImagesHelp);
  verb->add_option("REF", args->names, "names, patterns or digests of images")->check(Empty);
  verb->add_flag("-a,--all", args->all, "also those that only containerd or podman hold");
  AddListOptions(verb, &args->list, ImageColumns(), ImageFilterKeys(), "REFERENCE");
}

void AddStatus(CLI::App& app, Command* command) {
  const auto [verb, args] =
      AddVerb<StatusArgs>(app, command, "status",
                          "what the daemon does, or how much of a mount is present", kStatusHelp);
  auto* const directory = verb->add_option("DIR", args->directory, "of a mount")->check(BadPath);
  verb->add_option("--html", args->html, "write the mount's page to this file; - = standard output")
      ->type_name("FILE")
      ->check(BadPath)
      ->needs(directory);
}

void AddLogins(CLI::App& app, Command* command) {
  const auto [login, args] =
      AddVerb<LoginArgs>(app, command, "login", "store credentials for a registry", kLoginHelp);
  login->add_option("REGISTRY", args->registry, "HOST[:PORT][/NAMESPACE]")
      ->required()
      ->check(Empty);
  login->add_option("-u,--username", args->username, "user name (default: it is asked for)")
      ->type_name("USER")
      ->check([](const std::string& user) -> std::string {
        if (user.empty()) return "it is empty";
        return user.find(':') == std::string::npos ? "" : "a user name has no colon";
      });
  login
      ->add_option_function<std::string>(
          "-p,--password",
          [login_args = args](const std::string& text) {
            if (text.empty()) throw CLI::ValidationError("--password", "it is empty");
            login_args->password = text;
          },
          "password, which other users of the machine can then read (default: it is asked for)")
      ->type_name("PASSWORD");
  login->add_flag("--password-stdin", args->password_stdin, "the first line of standard input");
  login->add_flag("--get-login", args->get_login, "only print the user that is logged in");
  login->add_option("--authfile", args->auth_file, "the file to store them in")
      ->type_name("FILE")
      ->check(BadPath);
  login->add_flag("--plain-http", args->plain_http, "HTTP (default for loopback hosts only)");
  login->add_flag("--tls-skip-verify", args->skip_tls_verify, "accept any certificate");
  const auto [logout, logout_args] =
      AddVerb<LogoutArgs>(app, command, "logout", "remove stored credentials", kLogoutHelp);
  logout->add_option("REGISTRY", logout_args->registry, "HOST[:PORT][/NAMESPACE]")->check(Empty);
  logout->add_flag("-a,--all", logout_args->all, "those of all registries");
  logout->add_option("--authfile", logout_args->auth_file, "the file that has them")
      ->type_name("FILE")
      ->check(BadPath);
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
  AddLs(app, command);
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
  AddFiles(app, command);
  AddRuns(app, command);
  AddRm(app, command);
  AddPins(app, command);
  AddVerb<DfArgs>(app, command, "df", "show what occupies the store", kDfHelp);
  AddPrune(app, command);
  AddStatus(app, command);
  AddLogLevel(app, command);
  AddLogins(app, command);
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
  app.add_option("--timeout", global->timeout_seconds, "give up after this time (default: never)")
      ->check(CLI::Range(1, 1'000'000))
      ->type_name("SECONDS");
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
  const absl::Status failure = WithKind(absl::InvalidArgumentError(line), FailureKind::kUsage);
  return CliExit{ExitStatusOf(FailureKind::kUsage), json ? ErrorJson(failure) : "",
                 StrCat("imagefs: ", OneLine(line), "\n")};
}

bool IsVerb(const CLI::App& app, const std::string& word) {
  return !app.get_subcommands([&](const CLI::App* verb) { return verb->check_name(word); }).empty();
}

// Returns the verb that `word` is another tool's name for, or `word`.
const char* VerbOf(const char* word) {
  constexpr std::pair<std::string_view, const char*> kAliases[] = {
      {"unmount", "umount"}, {"list", "ls"},   {"ps", "ls"},     {"info", "status"},
      {"rmi", "rm"},         {"remove", "rm"}, {"delete", "rm"},
  };
  for (const auto& [alias, verb] : kAliases) {
    if (word == alias) return verb;
  }
  return word;
}

// Returns a suggestion to append to a message, or "" if nothing is similar.
std::string DidYouMean(const CLI::App& app, const std::string& word) {
  std::vector<std::string> names;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(verb->get_name());
  }
  const std::string best = MostSimilar(word, names);
  return best.empty() ? "" : StrCat("; did you mean ", best, "?");
}

// The value, which may be a password, is not shown.
std::string NoOption(std::string_view of, const std::string& word) {
  return StrCat(of, " has no option ", PrintableName(word.substr(0, word.find('=')), 60));
}

// Finds the first word that is neither an option nor the value of one, and replaces another tool's
// word for a verb by the verb. Returns "" or what is wrong with it.
std::string ResolveVerb(const CLI::App& app, std::vector<const char*>& arguments) {
  std::string unknown;  // the first option that is none of the global ones
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string word = arguments[i];
    if (word.starts_with('-')) {
      const CLI::Option* option = app.get_option_no_throw(word);
      if (option != nullptr && option->get_expected_max() > 0) ++i;
      if (option == nullptr && unknown.empty()) unknown = word;
      continue;
    }
    arguments[i] = VerbOf(arguments[i]);
    if (IsVerb(app, arguments[i])) return "";
    // The word is probably its value.
    if (!unknown.empty()) return StrCat(NoOption("imagefs", unknown), " before the verb");
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
    return NoOption(verb.empty() ? "imagefs" : verb, word);
  }
  return left.empty() ? "too many arguments"
                      : StrCat("\"", PrintableName(left[0], 60), "\" is one argument too many");
}

// What a command line can have, and where it is parsed to.
struct Model {
  Model(std::string_view version, bool json)
      : version_text(json ? VersionJson(version) : StrCat("imagefs ", version, "\n")) {
    app.set_help_flag("-h,--help", "this text");
    app.set_version_flag("-V,--version", version_text);
    app.require_subcommand(0, 1);
    app.fallthrough();
    AddGlobalOptions(app, &command.global, &check_config);
    AddVerbs(app, &command);
    help = app.add_subcommand("help", "explain a verb");
    help->add_option("VERB", help_verb);
    version_verb = app.add_subcommand("version", "the same as --version");
  }
  const std::string version_text;
  Command command;
  std::string check_config, help_verb;
  CLI::App app{kIntroduction, "imagefs"};
  CLI::App* help = nullptr;
  const CLI::App* version_verb = nullptr;
};

// Completes what no daemon is needed for at once.
std::variant<Command, CliExit> ParseCompletion(absl::Span<const char* const> words) {
  Model model("", /*json=*/false);
  Completion completion = Complete(model.app, std::vector<std::string>(words.begin(), words.end()));
  if (completion.names == NamesOf::kNothing) return CliExit{0, completion.Text(), ""};
  Command command;
  command.global.root = completion.root;
  command.global.run = completion.run;
  command.args = CompleteArgs{std::move(completion)};
  return command;
}

std::variant<Command, CliExit> Parse(int argc, const char* const* argv, std::string_view version,
                                     bool json) {
  std::vector<const char*> arguments(argv + 1, argv + argc);
  Model model(version, json);
  auto& [version_text, command, check_config, help_verb, app, help, version_verb] = model;
  std::string problem = CheckArguments(arguments);
  if (problem.empty()) problem = ResolveVerb(app, arguments);
  if (!problem.empty()) return UsageError(problem, "", json);
  const auto chosen = [&parsed = app] {
    const auto verbs = parsed.get_subcommands();
    return verbs.empty() ? std::string() : verbs[0]->get_name();
  };
  try {
    arguments.insert(arguments.begin(), argv[0]);
    app.parse(argc, arguments.data());
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
  if (version_verb->parsed()) return CliExit{0, version_text, ""};
  if (help->parsed()) {
    help_verb = VerbOf(help_verb.c_str());
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
    return UsageError(verb.empty() ? "no verb given" : "--check-config goes without a verb", "",
                      json);
  }
  if (verb.empty()) command.args = CheckConfigArgs{std::move(check_config)};
  const auto* const daemon = std::get_if<DaemonArgs>(&command.args);
  if (daemon != nullptr && daemon->check_config) {
    command.args = CheckConfigArgs{command.global.config};
  }
  problem = CheckCommand(command);
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
    if (argc > 1 && std::string_view(argv[1]) == kCompleteVerb) {
      return ParseCompletion({argv + 2, static_cast<size_t>(argc) - 2});
    }
    return Parse(argc, argv, version, json);
  } catch (const std::exception& error) {
    return UsageError(error.what(), "", json);
  }
}

}  // namespace imagefs
