// SPDX-License-Identifier: Apache-2.0
// Checks of what calls root's daemon: systemd, podman and CRI-O, the kubelet.
#include <unistd.h>

#include <algorithm>
#include <map>

#include "base/fd.h"
#include "base/status.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "base/toml.h"
#include "cmd/doctor_checks.h"
#include "fetch/kubelet_config.h"
#include "fetch/kubelet_providers.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxFile = 1 << 20;
constexpr auto kPatience = std::chrono::seconds(2);
constexpr char kStorageConf[] = "/etc/containers/storage.conf";
constexpr char kKubeletConfig[] = "/var/lib/kubelet/config.yaml";

// Of one unit.
using Properties = std::map<std::string, std::string, std::less<>>;

std::string ValueOf(const Properties& unit, std::string_view name) {
  const auto found = unit.find(name);
  return found == unit.end() ? "" : found->second;
}

void JudgeUnit(const Properties& unit, DoctorReport& report) {
  const std::string name = Printable(ValueOf(unit, "Id"), 60), state = ValueOf(unit, "ActiveState");
  const bool socket = name.ends_with(".socket");
  const std::string found = StrCat(name, " is ", Printable(state, 20), ", ",
                                   Printable(ValueOf(unit, "UnitFileState"), 20));
  if (ValueOf(unit, "LoadState") == "masked") {
    report.Warning("systemd", StrCat(name, " is masked"), "systemd does not start it",
                   StrCat("systemctl unmask ", name));
  } else if (state == "failed") {
    report.Problem("systemd", StrCat(name, " failed: ", Printable(ValueOf(unit, "Result"), 40)),
                   "commands and containerd get no answer from it",
                   StrCat("`systemctl status ", name, "` and `journalctl -u ", name, "` say why"));
  } else if (socket && state != "active") {
    report.Warning("systemd", found, "nobody starts the service when a client connects",
                   StrCat("systemctl enable --now ", name));
  } else if (socket && ValueOf(unit, "UnitFileState") == "disabled") {
    report.Warning("systemd", found, "it is gone after the next restart of the machine",
                   StrCat("systemctl enable ", name));
  } else {
    report.Ok("systemd", found);
  }
}

bool Names(const toml::node_view<const toml::node> list, std::string_view entry) {
  const toml::array* const entries = list.as_array();
  if (entries == nullptr) return false;
  return std::any_of(entries->begin(), entries->end(), [entry](const toml::node& one) {
    const auto* const text = one.as_string();
    std::string_view value = text == nullptr ? std::string_view() : text->get();
    while (value.size() > 1 && value.ends_with('/')) value.remove_suffix(1);
    return value == entry;
  });
}

// The additional layer store, which some versions of podman need not have.
void CheckLayerStore(const toml::table& conf, const Paths& paths, const Config& config,
                     DoctorReport& report) {
  const std::string entry = StrCat(paths.run, "/als:ref");
  const bool named = Names(conf["storage"]["options"]["additionallayerstores"], entry);
  if (named == config.podman_layers) return;
  if (named) {
    report.Problem("podman", StrCat(kStorageConf, " names ", entry, ", which no daemon serves"),
                   "podman fails, because the directory does not exist",
                   "set [podman] layers = true in the daemon's configuration, or remove the entry");
    return;
  }
  report.Note("podman", StrCat(kStorageConf, " does not name ", entry),
              "podman.layers has no effect: podman pulls every layer",
              StrCat("additionallayerstores = [\"", entry, "\"] in [storage.options]"));
}

void CheckImageStore(const Machine& machine, const toml::table& conf, const Paths& paths,
                     DoctorReport& report) {
  const std::string store = StrCat(paths.root, "/podman");
  if (!Names(conf["storage"]["options"]["additionalimagestores"], store)) {
    report.Note("podman", StrCat(kStorageConf, " does not name ", store),
                "podman and CRI-O do not see what `imagefs add` adds",
                StrCat("additionalimagestores = [\"", store, "\"] in [storage.options]"));
    return;
  }
  if (access(machine.At(store).c_str(), F_OK) != 0) {
    report.Problem("podman", StrCat(kStorageConf, " names ", store, ", which does not exist"),
                   "podman fails until it does", "start the daemon once: imagefs add --list");
    return;
  }
  report.Ok("podman", StrCat(kStorageConf, " names ", store));
}

void CheckKubeletLimits(const Machine& machine, const Config& config, DoctorReport& report) {
  const absl::StatusOr<std::string> text = ReadFile(machine.At(kKubeletConfig), kMaxFile);
  if (absl::IsNotFound(text.status())) return;
  const absl::StatusOr<KubeletDiskLimits> limits =
      text.ok() ? ParseKubeletDiskLimits(*text, kKubeletConfig)
                : absl::StatusOr<KubeletDiskLimits>(text.status());
  if (!limits.ok()) {
    report.Warning("kubelet", ToStd(limits.status().message()),
                   "it is unknown how much of the disk the kubelet keeps free",
                   "correct that file");
    return;
  }
  const unsigned least = limits->least_free_percent(), ours = config.space.background_min_free;
  const std::string found = StrCat("the kubelet keeps ", least,
                                   " % of the image disk free, fill.min_free is ", ours, " %");
  if (ours < least) {
    report.Warning("kubelet", found,
                   "what is fetched in the background makes the kubelet remove images or pods",
                   StrCat("set [fill] min_free = \"", least, "%\" or more"));
    return;
  }
  report.Ok("kubelet", found);
}

void CheckProvider(const Machine& machine, const Config& config, const KubeletProvider& provider,
                   DoctorReport& report) {
  const std::string program = StrCat(config.kubelet_bin_dir, "/", provider.name);
  if (access(machine.At(program).c_str(), X_OK) != 0) {
    report.Problem("credential plugins", StrCat(program, " cannot be run"),
                   "private images that need it cannot be fetched by the daemon",
                   "correct credentials.kubelet_bin_dir, or install the plugin");
  } else if (provider.needs_service_account) {
    report.Note("credential plugins", StrCat(program, " needs a service account of the pod"),
                "it is run without one, and may have no credentials",
                "let the kubelet pass them: credentials.cri_proxy");
  } else {
    report.Ok("credential plugins", program);
  }
}

void CheckProviders(const Machine& machine, const Config& config, DoctorReport& report) {
  if (config.kubelet_config.empty()) return;
  const absl::StatusOr<std::string> text = ReadFile(machine.At(config.kubelet_config), kMaxFile);
  const auto providers = text.ok() ? ParseKubeletProviders(*text, config.kubelet_config)
                                   : absl::StatusOr<std::vector<KubeletProvider>>(text.status());
  if (!providers.ok()) {
    report.Problem("credential plugins", ToStd(providers.status().message()),
                   "the daemon has no credentials of the kubelet's plugins",
                   "correct the file, or credentials.kubelet_config");
    return;
  }
  for (const KubeletProvider& provider : *providers) {
    CheckProvider(machine, config, provider, report);
  }
}

}  // namespace

void JudgeUnits(std::string_view shown, DoctorReport& report) {
  std::vector<Properties> units(1);
  for (const std::string_view line : Split(shown, '\n')) {
    const size_t equals = line.find('=');
    if (line.empty()) {
      units.emplace_back();
    } else if (equals != std::string_view::npos) {
      units.back().emplace(line.substr(0, equals), line.substr(equals + 1));
    }
  }
  std::erase_if(units, [](const Properties& unit) {
    return unit.empty() || ValueOf(unit, "LoadState") == "not-found";
  });
  if (units.empty()) {
    report.Ok("systemd", "it has no units of imagefs: commands start the daemon");
    return;
  }
  for (const Properties& unit : units) JudgeUnit(unit, report);
}

void CheckSystemd(const Machine& machine, DoctorReport& report) {
  if (access(machine.At("/run/systemd/system").c_str(), F_OK) != 0) {
    report.Ok("systemd", "it does not run: commands start the daemon");
    return;
  }
  const absl::StatusOr<ProgramResult> shown =
      RunProgram({.argv = {"systemctl", "show", "--no-pager",
                           "--property=Id,LoadState,ActiveState,UnitFileState,Result",
                           "imagefs.service", "imagefs.socket", "imagefs-snapshotter.socket"},
                  .environment = {"LC_ALL=C"},
                  .timeout = kPatience});
  if (shown.ok() && shown->succeeded()) {
    JudgeUnits(shown->output, report);
    return;
  }
  report.Warning(
      "systemd",
      StrCat("systemctl: ", shown.ok() ? shown->Complaint() : ToStd(shown.status().message())),
      "it is unknown whether the units of imagefs work", "`systemctl status` says why");
}

void CheckPodman(const Machine& machine, const Paths& paths, const Config& config,
                 DoctorReport& report) {
  const absl::StatusOr<std::string> text = ReadFile(machine.At(kStorageConf), kMaxFile);
  if (absl::IsNotFound(text.status())) {
    if (machine.FindProgram("podman").empty() && machine.FindProgram("crio").empty()) {
      report.Ok("podman", "neither podman nor CRI-O is installed");
    } else {
      report.Ok("podman", StrCat("there is no ", kStorageConf, ": it does not use imagefs"));
    }
    return;
  }
  const absl::StatusOr<toml::table> conf =
      text.ok() ? ParseToml(*text, kStorageConf) : absl::StatusOr<toml::table>(text.status());
  if (!conf.ok()) {
    report.Problem("podman", ToStd(conf.status().message()), "podman and CRI-O do not start",
                   "correct that file");
    return;
  }
  const std::string driver = (*conf)["storage"]["driver"].value_or(std::string());
  if (!driver.empty() && driver != "overlay") {
    report.Warning("podman", StrCat(kStorageConf, " has the driver ", Printable(driver, 40)),
                   "images of imagefs are for the driver overlay only", "driver = \"overlay\"");
  }
  CheckImageStore(machine, *conf, paths, report);
  CheckLayerStore(*conf, paths, config, report);
}

void CheckKubelet(const Machine& machine, const Config& config, DoctorReport& report) {
  CheckKubeletLimits(machine, config, report);
  CheckProviders(machine, config, report);
}

}  // namespace imagefs
