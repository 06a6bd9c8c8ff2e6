#include "fetch/credentials.h"

#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/status.h"
#include "base/text.h"

extern char** environ;

namespace imagefs {
namespace {

constexpr uint64_t kMaxFileBytes = 4 << 20;
constexpr size_t kMaxHelperBytes = 64 << 10;
constexpr std::chrono::seconds kHelperTimeout{10};
constexpr std::string_view kDockerHub = "docker.io";
constexpr std::string_view kDockerHubServer = "https://index.docker.io/v1/";
constexpr std::string_view kTokenUser = "<token>";

std::string Environment(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

// Both stores mark a refresh token by the user name.
Credential MakeCredential(std::string username, std::string secret) {
  Credential out;
  if (username.empty() || username == kTokenUser) {
    out.identity_token = std::move(secret);
  } else {
    out.username = std::move(username);
    out.password = std::move(secret);
  }
  return out;
}

// ---- Keys ----

bool IsHubHost(std::string_view host) {
  return host == kDockerHub || host == "index.docker.io" || host == "registry-1.docker.io";
}

bool SameHost(std::string_view a, std::string_view b) {
  return a == b || (IsHubHost(a) && IsHubHost(b));
}

// How well a key of a file fits `reference`: 0 not at all, else the longer the matching path the
// higher. Keys are HOST, HOST/NAMESPACE..., or docker's old URLs ("https://HOST/v1/"), which mean
// the host.
size_t Fit(std::string_view key, const Reference& reference) {
  const bool url = ConsumePrefix(&key, "https://") || ConsumePrefix(&key, "http://");
  while (key.ends_with('/')) key.remove_suffix(1);
  const size_t slash = key.find('/');
  const std::string_view host = key.substr(0, slash);
  if (host.empty() || !SameHost(host, reference.host)) return 0;
  if (slash == std::string_view::npos || url) return 1;
  const std::string_view path = key.substr(slash + 1);
  if (path == "v1" || path == "v2") return 1;
  if (!reference.repository.starts_with(path)) return 0;
  const bool whole = reference.repository.size() == path.size();
  return whole || reference.repository[path.size()] == '/' ? 1 + path.size() : 0;
}

// The member of `object` that fits best; absent when none does.
std::pair<std::string, Json> BestFit(const Json& object, const Reference& reference) {
  std::pair<std::string, Json> best;
  size_t best_fit = 0;
  if (!object.is_object()) return best;
  for (auto& member : object.members()) {
    const size_t fit = Fit(member.first, reference);
    if (fit > best_fit) {
      best_fit = fit;
      best = std::move(member);
    }
  }
  return best;
}

// ---- Helpers ----

struct HelperResult {
  int wait_status = 0;
  std::string output;
};

absl::Status HelperError(const std::string& program, std::string_view why,
                         const std::string& file) {
  return absl::FailedPreconditionError(
      StrCat("credential helper ", program, ": ", why, "; repair it or remove it from ", file));
}

// A child process that is killed and reaped, with its group, when it is not waited for.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ <= 0) return;
    kill(-pid_, SIGKILL);
    Reap();
  }
  pid_t pid() const { return pid_; }
  int Reap() {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
    return status;
  }

 private:
  pid_t pid_;
};

// Starts `program get` out of $PATH with these standard streams, in a process group of its own.
absl::StatusOr<pid_t> Spawn(const std::string& program, int input, int output) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  posix_spawnattr_setpgroup(&attributes, 0);
  sigset_t none, defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  std::string name = program, verb = "get";
  char* argv[] = {name.data(), verb.data(), nullptr};
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, program.c_str(), &actions, &attributes, argv, environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error == ENOENT) return absl::NotFoundError("not found in PATH");
  if (error != 0) return ErrnoStatus(error, "cannot be started");
  return pid;
}

// Waits until `fd` is readable (or at its end); false at the deadline.
bool WaitReadable(int fd, std::chrono::steady_clock::time_point deadline) {
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    struct pollfd poll_fd = {fd, POLLIN, 0};
    const int ready = poll(&poll_fd, 1, static_cast<int>(left.count()));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

absl::StatusOr<HelperResult> RunHelper(const std::string& program, std::string_view server) {
  const auto deadline = std::chrono::steady_clock::now() + kHelperTimeout;
  // A file in memory as standard input: a helper that does not read it breaks no pipe.
  Fd input(memfd_create("credential-host", MFD_CLOEXEC));
  int pipe_fds[2];
  if (!input.valid() || pipe2(pipe_fds, O_CLOEXEC) != 0) {
    return ErrnoStatus(errno, "cannot be started");
  }
  Fd output(pipe_fds[0]);
  Fd child_end(pipe_fds[1]);
  IMAGEFS_RETURN_IF_ERROR(PwriteFull(input.get(), server, 0));
  IMAGEFS_ASSIGN_OR_RETURN(pid_t pid, Spawn(program, input.get(), child_end.get()));
  Child child(pid);
  child_end.Reset();
  HelperResult result;
  char buffer[4096];
  while (true) {
    if (!WaitReadable(output.get(), deadline)) {
      return absl::DeadlineExceededError("no answer within 10 seconds");
    }
    const ssize_t got = read(output.get(), buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "its answer cannot be read");
    if (got == 0) break;
    result.output.append(buffer, static_cast<size_t>(got));
    if (result.output.size() > kMaxHelperBytes) {
      return absl::ResourceExhaustedError("its answer is longer than 64 KiB");
    }
  }
  Fd exited(static_cast<int>(syscall(SYS_pidfd_open, child.pid(), 0)));
  if (exited.valid() && !WaitReadable(exited.get(), deadline)) {
    return absl::DeadlineExceededError("it did not end within 10 seconds");
  }
  result.wait_status = child.Reap();
  return result;
}

// What a helper that failed says about it: the first line, unless it looks like a credential.
std::string Complaint(const HelperResult& result) {
  std::string out = WIFEXITED(result.wait_status)
                        ? StrCat("it ended with status ", WEXITSTATUS(result.wait_status))
                        : StrCat("it was killed by signal ", WTERMSIG(result.wait_status));
  const std::string line = result.output.substr(0, result.output.find('\n'));
  if (!line.empty() && line.find('{') == std::string::npos) {
    StrAppend(&out, " (", Printable(line), ")");
  }
  return out;
}

// nullopt: the helper has no credential for `server`.
absl::StatusOr<std::optional<Credential>> AskHelper(const std::string& helper,
                                                    std::string_view server,
                                                    const std::string& file) {
  const std::string program = "docker-credential-" + helper;
  const bool plain = std::all_of(helper.begin(), helper.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
  });
  if (!plain || helper.size() > 128) {
    return absl::InvalidArgumentError(
        StrCat(file, ": \"", Printable(helper), "\" is no name of a credential helper"));
  }
  absl::StatusOr<HelperResult> result = RunHelper(program, server);
  if (!result.ok()) return HelperError(program, ToStd(result.status().message()), file);
  if (!WIFEXITED(result->wait_status) || WEXITSTATUS(result->wait_status) != 0) {
    if (ToLower(result->output).find("credentials not found") != std::string::npos) {
      return std::nullopt;
    }
    return HelperError(program, Complaint(*result), file);
  }
  absl::StatusOr<Json> answer = Json::Parse(result->output);
  if (!answer.ok() || !answer->is_object() || !(*answer)["Secret"].string()) {
    return HelperError(program, "its answer is no JSON object with a Secret", file);
  }
  Credential credential = MakeCredential(answer->StringOr("Username"), answer->StringOr("Secret"));
  if (credential.empty()) return std::nullopt;
  return credential;
}

// ---- Files ----

absl::StatusOr<std::optional<Credential>> FromAuthEntry(const std::string& key, const Json& entry,
                                                        const std::string& file) {
  if (std::string token = entry.StringOr("identitytoken"); !token.empty()) {
    Credential out;
    out.identity_token = std::move(token);
    return out;
  }
  std::string username = entry.StringOr("username");
  std::string password = entry.StringOr("password");
  if (const std::string encoded = entry.StringOr("auth"); !encoded.empty()) {
    std::string decoded;
    const bool good = absl::Base64Unescape(encoded, &decoded);
    const size_t colon = decoded.find(':');
    if (!good || colon == std::string::npos) {
      return absl::InvalidArgumentError(StrCat(file, ": the auth member of \"", Printable(key),
                                               "\" is not the base64 of USER:PASSWORD; log in to "
                                               "the registry again"));
    }
    username = decoded.substr(0, colon);
    password = decoded.substr(colon + 1);
    while (password.ends_with('\0')) password.pop_back();
  }
  Credential out = MakeCredential(std::move(username), std::move(password));
  // Logging in through a helper leaves an empty entry behind.
  if (out.empty()) return std::nullopt;
  return out;
}

// The name of the helper that is responsible for `reference`; "" for none.
std::string HelperFor(const Json& config, const Reference& reference) {
  const auto [key, value] = BestFit(config["credHelpers"], reference);
  if (value.exists()) return value.string().value_or("");
  return config.StringOr("credsStore");
}

absl::StatusOr<std::optional<Credential>> FindInFile(const std::string& file,
                                                     const Reference& reference) {
  absl::StatusOr<std::string> text = ReadFile(file, kMaxFileBytes);
  if (absl::IsNotFound(text.status())) return std::nullopt;
  if (!text.ok()) {
    return Annotate(text.status(), StrCat("credentials in ", file, " cannot be read"));
  }
  if (absl::StripAsciiWhitespace(*text).empty()) return std::nullopt;
  absl::StatusOr<Json> config = Json::Parse(*text);
  if (!config.ok() || !config->is_object()) {
    // The parser's own message may quote a secret.
    return absl::InvalidArgumentError(
        StrCat(file, " is no valid JSON object; repair or remove it"));
  }
  if (const std::string helper = HelperFor(*config, reference); !helper.empty()) {
    std::vector<std::string> servers = {reference.host};
    // Docker keeps its hub under an old URL, the containers tools under its name.
    if (IsHubHost(reference.host)) servers = {std::string(kDockerHubServer), "docker.io"};
    for (const std::string& server : servers) {
      IMAGEFS_ASSIGN_OR_RETURN(std::optional<Credential> found, AskHelper(helper, server, file));
      if (found) return found;
    }
  }
  const auto [key, entry] = BestFit((*config)["auths"], reference);
  if (!entry.is_object()) return std::nullopt;
  return FromAuthEntry(key, entry, file);
}

}  // namespace

std::string Credential::Fingerprint() const {
  if (empty()) return "anonymous";
  static const std::string salt = RandomHex(16);
  return Sha256Of(StrCat(salt, username.size(), ":", username, password.size(), ":", password,
                         identity_token))
      .hex()
      .substr(0, 32);
}

CredentialOptions CredentialOptions::FromEnvironment() {
  CredentialOptions out;
  out.home = Environment("HOME");
  if (out.home.empty()) {
    if (const struct passwd* user = getpwuid(getuid()); user != nullptr) out.home = user->pw_dir;
  }
  out.docker_config = Environment("DOCKER_CONFIG");
  out.auth_file = Environment("REGISTRY_AUTH_FILE");
  out.xdg_runtime_dir = Environment("XDG_RUNTIME_DIR");
  out.xdg_config_home = Environment("XDG_CONFIG_HOME");
  return out;
}

absl::StatusOr<Credential> FindCredential(const Reference& reference,
                                          const CredentialOptions& options) {
  if (reference.transport != Reference::Transport::kRegistry) return Credential();
  std::vector<std::string> files;
  if (!options.auth_file.empty()) files.push_back(options.auth_file);
  if (!options.xdg_runtime_dir.empty()) {
    files.push_back(options.xdg_runtime_dir + "/containers/auth.json");
  }
  if (!options.xdg_config_home.empty()) {
    files.push_back(options.xdg_config_home + "/containers/auth.json");
  } else if (!options.home.empty()) {
    files.push_back(options.home + "/.config/containers/auth.json");
  }
  if (!options.docker_config.empty()) {
    files.push_back(options.docker_config + "/config.json");
  } else if (!options.home.empty()) {
    files.push_back(options.home + "/.docker/config.json");
  }
  for (const std::string& file : files) {
    IMAGEFS_ASSIGN_OR_RETURN(std::optional<Credential> found, FindInFile(file, reference));
    if (found) return *std::move(found);
  }
  return Credential();
}

}  // namespace imagefs
