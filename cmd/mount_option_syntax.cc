#include "cmd/mount_option_syntax.h"

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

// Of one value that fsconfig(2) hands to a file system.
constexpr size_t kMaxContext = 255;

using FlagTable = std::map<std::string_view, std::function<void()>>;
// What is wrong with the value, or "".
using Values = std::map<std::string_view, std::function<std::string(std::string_view)>>;

// For others than the program that mounts: mount(8), systemd, `mount -a`, checkers.
bool PassedOver(std::string_view word) {
  static const std::set<std::string_view> words = {
      "",           "defaults",   "auto",   "noauto",   "nofail",    "_netdev",
      "user",       "nouser",     "users",  "owner",    "group",     "relatime",
      "atime",      "noatime",    "silent", "loud",     "comment",   "diratime",
      "nodiratime", "norelatime", "async",  "lazytime", "nolazytime"};
  // user=NAME is what mount(8) makes of `user`, so that the same user may unmount.
  for (const std::string_view prefix : {"x-", "X-", "comment=", "user=", "uhelper=", "helper="}) {
    if (word.starts_with(prefix)) return true;
  }
  return words.contains(word);
}

// "" when the quotation marks are not even. The marks themselves go.
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

std::string SetDeadline(std::string_view value, Command* command) {
  const std::optional<uint64_t> seconds = ParseDecimal(value);
  if (!seconds.has_value() || *seconds == 0 || *seconds > 1'000'000) return "takes seconds";
  command->deadline_seconds = static_cast<int>(*seconds);
  return "";
}

std::string SetPlatform(std::string_view value, Command* command) {
  command->platform = value;
  const absl::StatusOr<Platform> platform = Platform::Parse(command->platform);
  return platform.ok() ? "" : std::string(platform.status().message());
}

FlagTable FlagOptions(MountOptionSyntax of, Command* command) {
  FlagTable flags = {
      {"ro", Set(command->writable, false)},
      {"writable", Set(command->writable, true)},
      {"suid", Set(command->suid, true)},
      {"nosuid", Set(command->suid, false)},
      {"dev", Set(command->dev, true)},
      {"nodev", Set(command->dev, false)},
      // mount(8) takes `suid` and `dev` for the default and does not hand them on.
      {"setuid", Set(command->suid, true)},
      {"devices", Set(command->dev, true)},
      {"exec", Set(command->noexec, false)},
      {"noexec", Set(command->noexec, true)},
      {"eager", Set(command->eager, true)},
      {"plain-http", Set(command->plain_http, true)},
      {"tls-skip-verify", Set(command->skip_tls_verify, true)},
  };
  flags["rw"] = of == MountOptionSyntax::kCommand ? Set(command->writable, true) : [] {};
  return flags;
}

Values ValueOptions(MountOptionSyntax of, Command* command) {
  Values values = {
      {"mode", OneOf(command->mode, {"auto", "kernel", "fuse"})},
      {"pull", OneOf(command->pull, {"missing", "always", "never"})},
      {"platform", [command](std::string_view value) { return SetPlatform(value, command); }},
      {"deadline", [command](std::string_view value) { return SetDeadline(value, command); }},
      {"upper", Path(command->upper)},
      {"map-uids", Text(command->id_map)},
      {"context", Text(command->context)},
  };
  if (of == MountOptionSyntax::kMount8) {
    values["root"] = Path(command->root);
    values["run"] = Path(command->run);
    values["config"] = Path(command->config);
    values["ca-file"] = Path(command->ca_file);
  }
  return values;
}

}  // namespace

std::string ApplyMountOptions(std::string_view text, MountOptionSyntax of, bool sloppy,
                              Command* command) {
  const std::optional<std::vector<std::string>> words = SplitOptions(text);
  if (!words.has_value()) return "a quotation mark is missing";
  const FlagTable flags = FlagOptions(of, command);
  const Values values = ValueOptions(of, command);
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
    } else if (!PassedOver(word) && !sloppy) {
      return StrCat(Printable(word), " is not known");
    }
  }
  return "";
}

std::string CheckMount(const Command& command) {
  if (command.verb == "mount") {
    const absl::Status path = CheckPath(command.directory, "DIR");
    if (!path.ok()) return std::string(path.message());
  }
  if (command.context.size() > kMaxContext) {
    return StrCat("--context has ", command.context.size(), " bytes, more than the kernel takes (",
                  kMaxContext, ")");
  }
  for (const char c : command.context) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f')
      return "--context has a character that no label has";
  }
  if (!command.upper.empty() && !command.writable) return "--upper needs --rw";
  if (!command.id_map.empty() && command.writable) return "--map-uids and --rw exclude each other";
  if (command.mode == "fuse" && !(command.id_map.empty() && command.context.empty())) {
    return "--map-uids and --context need the kernel presentation";
  }
  return "";
}

}  // namespace imagefs
