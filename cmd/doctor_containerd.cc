// SPDX-License-Identifier: Apache-2.0
// Checks of containerd's configuration, by what docs/containerd.md asks for.
#include <glob.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "absl/cleanup/cleanup.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "base/toml.h"
#include "cmd/doctor_checks.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxFile = 1 << 20;
constexpr size_t kMaxFiles = 64;
constexpr auto kPatience = std::chrono::seconds(2);
constexpr char kConfigFile[] = "/etc/containerd/config.toml";
constexpr char kCri[] = "io.containerd.grpc.v1.cri";             // of version 2
constexpr char kCriImages[] = "io.containerd.cri.v1.images";     // of version 3
constexpr char kCriRuntime[] = "io.containerd.cri.v1.runtime";   // of version 3
constexpr char kTransfer[] = "io.containerd.transfer.v1.local";  // of version 3
constexpr char kRemedy[] = "see docs/containerd.md, and restart containerd";

using View = toml::node_view<const toml::node>;

// The configuration file with what it imports.
class ContainerdConfig {
 public:
  static absl::StatusOr<ContainerdConfig> Read(const Machine& machine) {
    ContainerdConfig out;
    IMAGEFS_RETURN_IF_ERROR(out.Add(machine, kConfigFile));
    const toml::array* const imports = out.files_[0]["imports"].as_array();
    if (imports == nullptr) return out;
    for (const toml::node& one : *imports) {
      const auto* const pattern = one.as_string();
      if (pattern != nullptr) IMAGEFS_RETURN_IF_ERROR(out.Import(machine, pattern->get()));
    }
    return out;
  }

  // A section of an imported file replaces that of earlier ones as a whole.
  View Plugin(std::string_view id) const { return Section("plugins", id); }
  View ProxyPlugin(std::string_view name) const { return Section("proxy_plugins", name); }
  // Of the format: 1 if the file names none.
  int64_t version() const { return files_[0]["version"].value_or(int64_t{1}); }

 private:
  absl::Status Add(const Machine& machine, const std::string& path) {
    if (files_.size() == kMaxFiles) {
      return absl::InvalidArgumentError(
          StrCat(kConfigFile, " imports more than ", kMaxFiles, " files"));
    }
    IMAGEFS_ASSIGN_OR_RETURN(const std::string text, ReadFile(machine.At(path), kMaxFile));
    IMAGEFS_ASSIGN_OR_RETURN(toml::table table, ParseToml(text, path));
    files_.push_back(std::move(table));
    return absl::OkStatus();
  }

  absl::Status Import(const Machine& machine, std::string pattern) {
    if (!pattern.starts_with('/')) pattern = StrCat(ParentOf(kConfigFile), "/", pattern);
    glob_t found{};
    const absl::Cleanup free = [&found] { globfree(&found); };
    if (glob(machine.At(pattern).c_str(), 0, nullptr, &found) != 0) return absl::OkStatus();
    for (size_t i = 0; i < found.gl_pathc; ++i) {
      const std::string path = found.gl_pathv[i];
      IMAGEFS_RETURN_IF_ERROR(Add(machine, path.substr(machine.files.size())));
    }
    return absl::OkStatus();
  }

  View Section(std::string_view kind, std::string_view name) const {
    for (auto file = files_.rbegin(); file != files_.rend(); ++file) {
      const View section = (*file)[kind][name];
      if (section.is_table()) return section;
    }
    return {};
  }

  std::vector<toml::table> files_;
};

std::string Text(View node) { return node.value_or(std::string()); }

// What containerd is: from its configuration and its version.
class ContainerdJudge {
 public:
  ContainerdJudge(const ContainerdConfig& conf, const Machine& machine, const Paths& paths,
                  const Config& config, std::string_view version, DoctorReport& report)
      : conf_(conf),
        machine_(machine),
        paths_(paths),
        config_(config),
        new_format_(conf.version() >= 3),
        new_program_(new_format_ || (!version.empty() && version[0] >= '2' && version[0] <= '9')),
        report_(report) {}

  void Judge() {
    if (!JudgeProxyPlugin()) return;
    JudgeExports();
    JudgeSnapshotter();
    JudgeHosts();
  }

 private:
  View Images() const {
    return new_format_ ? conf_.Plugin(kCriImages) : conf_.Plugin(kCri)["containerd"];
  }
  View Registry() const {
    return new_format_ ? conf_.Plugin(kCriImages)["registry"] : conf_.Plugin(kCri)["registry"];
  }
  View Runtimes() const {
    return (new_format_ ? conf_.Plugin(kCriRuntime) : conf_.Plugin(kCri))["containerd"]["runtimes"];
  }

  // Returns false if containerd does not know imagefs at all.
  bool JudgeProxyPlugin() {
    const View plugin = conf_.ProxyPlugin("imagefs");
    const std::string socket = paths_.run + "/snapshotter.sock";
    if (!plugin.is_table()) {
      report_.Note("containerd", StrCat(kConfigFile, " has no proxy plugin imagefs"),
                   "containerd does not use imagefs", StrCat("if it should: ", kRemedy));
      return false;
    }
    const std::string address = Text(plugin["address"]), type = Text(plugin["type"]);
    if (type != "snapshot") {
      report_.Problem("containerd",
                      StrCat("proxy_plugins.imagefs has the type \"", Printable(type, 40),
                             "\", not \"snapshot\""),
                      "containerd does not use it as a snapshotter", kRemedy);
    } else if (address != socket) {
      report_.Problem(
          "containerd",
          StrCat("proxy_plugins.imagefs has the address ", Printable(address), ", not ", socket),
          "containerd calls a socket at which this daemon does not listen", kRemedy);
    } else if (access(machine_.At(socket).c_str(), F_OK) != 0) {
      report_.Warning("containerd", StrCat("there is no socket ", socket),
                      "pulls and containers with the snapshotter imagefs fail until there is",
                      "systemctl enable --now imagefs-snapshotter.socket, or run imagefsd daemon");
    } else {
      report_.Ok("containerd", StrCat("its proxy plugin imagefs is at ", socket));
    }
    return true;
  }

  void JudgeExports() {
    const View exports = conf_.ProxyPlugin("imagefs")["exports"];
    const std::string root = Text(exports["root"]);
    if (root != paths_.root) {
      report_.Warning("containerd",
                      root.empty() ? "proxy_plugins.imagefs.exports has no root"
                                   : StrCat("proxy_plugins.imagefs.exports has the root ",
                                            Printable(root), ", not ", paths_.root),
                      "the kubelet looks for the images' disk elsewhere", kRemedy);
    }
    if (new_format_ && Text(exports["enable_remote_snapshot_annotations"]) != "true") {
      report_.Problem("containerd",
                      "proxy_plugins.imagefs.exports has no enable_remote_snapshot_annotations = "
                      "\"true\"",
                      "containerd does not say which image a layer is of: each is downloaded and "
                      "unpacked",
                      kRemedy);
    }
  }

  std::string RuntimesWithImagefs() const {
    std::string out;
    const toml::table* const runtimes = Runtimes().as_table();
    if (runtimes == nullptr) return out;
    for (const auto& [name, runtime] : *runtimes) {
      const View snapshotter = View(runtime)["snapshotter"];
      if (Text(snapshotter) != "imagefs") continue;
      StrAppend(&out, out.empty() ? "" : ", ", Printable(name.str(), 60));
    }
    return out;
  }

  void JudgeSnapshotter() {
    const std::string snapshotter = Text(Images()["snapshotter"]);
    const std::string runtimes = RuntimesWithImagefs();
    if (snapshotter != "imagefs" && runtimes.empty()) {
      report_.Note("containerd-cri",
                   StrCat("its snapshotter is ",
                          snapshotter.empty() ? "the default" : Printable(snapshotter, 60)),
                   "pods do not run from imagefs; who names the snapshotter (ctr, nerdctl) does",
                   StrCat("if pods should: snapshotter = \"imagefs\"; ", kRemedy));
      return;
    }
    bool right = JudgeAnnotations();
    if (new_format_) right = JudgeUnpack() && right;
    if (!right) return;
    report_.Ok("containerd-cri", snapshotter == "imagefs"
                                     ? std::string("its snapshotter is imagefs")
                                     : StrCat("imagefs is the snapshotter of ", runtimes));
  }

  // Without them the daemon does not know the image of a layer.
  bool JudgeAnnotations() {
    const auto disabled = Images()["disable_snapshot_annotations"].value<bool>();
    if (new_program_) {
      if (!new_format_ || !disabled.has_value()) return true;
      report_.Warning("containerd-cri", "disable_snapshot_annotations is set",
                      "containerd 2 bypasses its transfer service then", "remove that line");
      return false;
    }
    if (disabled.has_value() && !*disabled) return true;
    report_.Problem("containerd-cri", "disable_snapshot_annotations is not false",
                    "containerd does not say which image a layer is of: each is downloaded and "
                    "unpacked",
                    StrCat("disable_snapshot_annotations = false; ", kRemedy));
    return false;
  }

  bool JudgeUnpack() {
    const toml::array* const entries = conf_.Plugin(kTransfer)["unpack_config"].as_array();
    const bool named = entries != nullptr &&
                       std::any_of(entries->begin(), entries->end(), [](const toml::node& one) {
                         return Text(View(one)["snapshotter"]) == "imagefs";
                       });
    if (named) return true;
    report_.Problem("containerd-cri", StrCat("no unpack_config of ", kTransfer, " names imagefs"),
                    "pulls through containerd's transfer service do not reach imagefs", kRemedy);
    return false;
  }

  // The daemon asks the same mirrors only if it reads the same files.
  void JudgeHosts() {
    if (const View mirrors = Registry()["mirrors"]; mirrors.is_table()) {
      report_.Warning("containerd-hosts", StrCat(kConfigFile, " has registry.mirrors"),
                      "imagefs asks the registries themselves: it reads hosts.toml files only",
                      "move them to hosts.toml files (config_path; docs/mirrors.md)");
    }
    const std::string path = Text(Registry()["config_path"]);
    const std::vector<std::string> read = config_.HostsOptions().containerd_dirs;
    for (std::string_view directory : Split(path, ':')) {
      while (directory.size() > 1 && directory.ends_with('/')) directory.remove_suffix(1);
      if (directory.empty() || std::find(read.begin(), read.end(), directory) != read.end()) {
        continue;
      }
      report_.Warning(
          "containerd-hosts",
          StrCat("its config_path is ", Printable(directory), ", which imagefs does not read"),
          "imagefs asks other mirrors than containerd, or none",
          StrCat("[hosts] containerd = [\"", Printable(directory),
                 "\"] in the daemon's "
                 "configuration"));
    }
  }

  const ContainerdConfig& conf_;
  const Machine& machine_;
  const Paths& paths_;
  const Config& config_;
  const bool new_format_, new_program_;
  DoctorReport& report_;
};

}  // namespace

std::string ContainerdVersion(const Machine& machine) {
  const std::string program = machine.FindProgram("containerd");
  if (program.empty()) return "";
  const absl::StatusOr<ProgramResult> result =
      RunProgram({.argv = {program, "--version"}, .environment = {}, .timeout = kPatience});
  if (!result.ok() || !result->succeeded()) return "";
  // "containerd github.com/containerd/containerd v1.6.20 ..."
  const std::vector<std::string_view> words = Split(result->output, ' ');
  if (words.size() < 3) return "";
  std::string_view version = words[2];
  ConsumePrefix(&version, "v");
  return Printable(version.substr(0, version.find('\n')), 40);
}

void CheckContainerd(const Machine& machine, const Paths& paths, const Config& config,
                     std::string_view version, DoctorReport& report) {
  const std::string name =
      version.empty() ? std::string("containerd") : StrCat("containerd ", version);
  if (access(machine.At(kConfigFile).c_str(), F_OK) != 0) {
    report.Ok("containerd",
              version.empty() ? std::string("it is not installed")
                              : StrCat(name, " has no ", kConfigFile, ": it does not use imagefs"));
    return;
  }
  const absl::StatusOr<ContainerdConfig> conf = ContainerdConfig::Read(machine);
  if (!conf.ok()) {
    report.Problem("containerd", ToStd(conf.status().message()),
                   "containerd does not start with it", "correct that file");
    return;
  }
  report.Ok("containerd", StrCat(name, ", configured by ", kConfigFile));
  ContainerdJudge(*conf, machine, paths, config, version, report).Judge();
}

}  // namespace imagefs
