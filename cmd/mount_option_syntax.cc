// SPDX-License-Identifier: Apache-2.0
#include "cmd/mount_option_syntax.h"

#include <grp.h>
#include <pwd.h>

#include <array>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "base/directory.h"
#include "base/text.h"
#include "image/manifest.h"

namespace imagefs {
namespace {

// The limit of fsconfig(2) for one value.
constexpr size_t kMaxContext = 255;

using FlagTable = std::map<std::string_view, std::function<void()>>;
// Each function applies a value and returns "" or what is wrong with it.
using Values = std::map<std::string_view, std::function<std::string(std::string_view)>>;

// Returns whether the option is meant for other programs: mount(8), systemd, `mount -a`, checkers.
bool PassedOver(std::string_view word) {
  static const std::set<std::string_view> words = {
      "",           "defaults",   "auto",   "noauto",   "nofail",    "_netdev",
      "user",       "nouser",     "users",  "owner",    "group",     "relatime",
      "atime",      "noatime",    "silent", "loud",     "comment",   "diratime",
      "nodiratime", "norelatime", "async",  "lazytime", "nolazytime"};
  // mount(8) turns `user` into user=NAME, so that the same user may unmount.
  for (const std::string_view prefix : {"x-", "X-", "comment=", "user=", "uhelper=", "helper="}) {
    if (word.starts_with(prefix)) return true;
  }
  return words.contains(word);
}

// Splits at commas outside of quotation marks, which are removed. Returns nullopt if they are
// unbalanced.
std::optional<std::vector<std::string>> SplitOptions(std::string_view text) {
  std::vector<std::string> words(1);
  bool quoted = false;
  for (const char c : text) {
    if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      words.emplace_back();
    } else {
      words.back().push_back(c);
    }
  }
  if (quoted) return std::nullopt;
  return words;
}

std::function<void()> Set(bool& flag, bool value) {
  return [&flag, value] { flag = value; };
}

std::function<std::string(std::string_view)> Text(std::string& out) {
  return [&out](std::string_view value) {
    out = value;
    return std::string(value.empty() ? "takes a value" : "");
  };
}

std::function<std::string(std::string_view)> Path(std::string& out) {
  return [&out](std::string_view value) {
    out = value;
    if (value.empty()) return std::string("takes a value");
    return std::string(CheckPath(value, "the path").message());
  };
}

std::function<std::string(std::string_view)> OneOf(std::string& out,
                                                   std::array<std::string_view, 3> choices) {
  return [&out, choices](std::string_view value) {
    out = value;
    for (const std::string_view choice : choices) {
      if (value == choice) return std::string();
    }
    return StrCat("takes ", choices[0], ", ", choices[1], " or ", choices[2]);
  };
}

std::function<std::string(std::string_view)> Seconds(int& out) {
  return [&out](std::string_view value) -> std::string {
    const std::optional<uint64_t> seconds = ParseDecimal(value);
    if (!seconds.has_value() || *seconds == 0 || *seconds > 1'000'000) {
      return "takes a number of seconds";
    }
    out = static_cast<int>(*seconds);
    return "";
  };
}

using Ids = std::optional<uint32_t> (*)(const std::string& name);

std::optional<uint32_t> FindUser(const std::string& name) {
  const struct passwd* const found = getpwnam(name.c_str());
  return found == nullptr ? std::nullopt : std::optional<uint32_t>(found->pw_uid);
}

std::optional<uint32_t> FindGroup(const std::string& name) {
  const struct group* const found = getgrnam(name.c_str());
  return found == nullptr ? std::nullopt : std::optional<uint32_t>(found->gr_gid);
}

// A number, or a name of this machine.
std::function<std::string(std::string_view)> Id(std::optional<uint32_t>& out, Ids find) {
  return [&out, find](std::string_view value) -> std::string {
    const std::optional<uint64_t> number = ParseDecimal(value);
    if (number.has_value() && *number < UINT32_MAX) {
      out = static_cast<uint32_t>(*number);
    } else {
      out = number.has_value() || value.empty() ? std::nullopt : find(std::string(value));
    }
    return out.has_value() ? "" : "takes a number, or a name that this machine knows";
  };
}

std::function<std::string(std::string_view)> Mask(std::vector<std::optional<uint32_t>*> out) {
  return [out](std::string_view value) -> std::string {
    const std::optional<uint32_t> mask = ParseMask(value);
    if (!mask.has_value()) return "takes permissions in octal, up to 0777";
    for (std::optional<uint32_t>* const one : out) *one = mask;
    return "";
  };
}

std::string SetPlatform(std::string_view value, ImageOptions* image) {
  image->platform = value;
  const absl::StatusOr<Platform> platform = Platform::Parse(image->platform);
  return platform.ok() ? "" : std::string(platform.status().message());
}

FlagTable FlagOptions(MountArgs* mount) {
  return {
      {"ro", Set(mount->writable, false)},
      {"writable", Set(mount->writable, true)},
      {"suid", Set(mount->suid, true)},
      {"nosuid", Set(mount->suid, false)},
      {"dev", Set(mount->dev, true)},
      {"nodev", Set(mount->dev, false)},
      // mount(8) considers `suid` and `dev` the default and does not pass them on.
      {"setuid", Set(mount->suid, true)},
      {"devices", Set(mount->dev, true)},
      {"exec", Set(mount->noexec, false)},
      {"noexec", Set(mount->noexec, true)},
      {"allow_other", Set(mount->allow_other, true)},
      {"eager", Set(mount->eager, true)},
      {"plain-http", Set(mount->image.plain_http, true)},
      {"tls-skip-verify", Set(mount->image.skip_tls_verify, true)},
  };
}

Values ValueOptions(MountArgs* mount) {
  return {
      {"mode", OneOf(mount->mode, {"auto", "kernel", "fuse"})},
      {"pull", OneOf(mount->image.pull, {"missing", "always", "never"})},
      {"platform", [mount](std::string_view value) { return SetPlatform(value, &mount->image); }},
      {"deadline", Seconds(mount->deadline_seconds)},
      {"timeout", Seconds(mount->timeout_seconds)},
      {"authfile", Path(mount->image.auth_file)},
      {"upper", Path(mount->upper)},
      {"map-uids", Text(mount->id_map)},
      {"context", Text(mount->context)},
      {"uid", Id(mount->shown_as.uid, FindUser)},
      {"gid", Id(mount->shown_as.gid, FindGroup)},
      {"umask", Mask({&mount->shown_as.file_mask, &mount->shown_as.directory_mask})},
      {"fmask", Mask({&mount->shown_as.file_mask})},
      {"dmask", Mask({&mount->shown_as.directory_mask})},
  };
}

std::string Apply(std::string_view text, const FlagTable& flags, const Values& values,
                  bool sloppy) {
  const std::optional<std::vector<std::string>> words = SplitOptions(text);
  if (!words.has_value()) return "a quotation mark is missing";
  for (const std::string_view word : *words) {
    const size_t equals = word.find('=');
    if (const auto flag = flags.find(word); flag != flags.end()) {
      flag->second();
    } else if (const auto value = values.find(word.substr(0, equals));
               value != values.end() && equals != word.npos) {
      const std::string problem = value->second(word.substr(equals + 1));
      if (!problem.empty()) return StrCat(value->first, "= ", problem);
    } else if (word == "remount" || word == "bind") {
      return StrCat(word, " is not possible with images; unmount it and mount it again");
    } else if (word == "allow_root") {
      return "allow_root is not possible: what the kernel keeps of a file has no owner; use "
             "allow_other";
    } else if (!PassedOver(word) && !sloppy) {
      return StrCat(Printable(word), " is not known");
    }
  }
  return "";
}

}  // namespace

std::string ApplyMountOptions(std::string_view words, MountArgs* mount) {
  FlagTable flags = FlagOptions(mount);
  flags["rw"] = Set(mount->writable, true);
  return Apply(words, flags, ValueOptions(mount), /*sloppy=*/false);
}

std::string ApplyMount8Options(std::string_view words, bool sloppy, MountArgs* mount,
                               GlobalOptions* global) {
  FlagTable flags = FlagOptions(mount);
  flags["rw"] = [] {};
  Values values = ValueOptions(mount);
  values["root"] = Path(global->root);
  values["run"] = Path(global->run);
  values["config"] = Path(global->config);
  values["ca-file"] = Path(global->ca_file);
  return Apply(words, flags, values, sloppy);
}

std::string CheckMount(const MountArgs& mount) {
  const absl::Status path = CheckPath(mount.directory, "DIR");
  if (!path.ok()) return std::string(path.message());
  if (mount.context.size() > kMaxContext) {
    return StrCat("--context has ", mount.context.size(), " bytes, more than the kernel takes (",
                  kMaxContext, ")");
  }
  for (const char c : mount.context) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f')
      return "--context has a character that no label has";
  }
  if (!mount.upper.empty() && !mount.writable) return "--upper needs --rw";
  if (!mount.id_map.empty() && mount.writable) return "--map-uids and --rw exclude each other";
  if (mount.mode == "fuse" && !(mount.id_map.empty() && mount.context.empty())) {
    return "--map-uids and --context need the kernel presentation";
  }
  if (mount.shown_as.any() &&
      !(mount.mode != "kernel" && mount.id_map.empty() && mount.context.empty())) {
    return "uid=, gid=, umask=, fmask= and dmask= need FUSE: leave out --mode kernel, --map-uids "
           "and --context";
  }
  return "";
}

}  // namespace imagefs
