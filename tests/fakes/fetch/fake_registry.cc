// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/fetch/fake_registry.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/text.h"

namespace imagefs {
namespace {

bool SendAll(int fd, std::string_view data) {
  while (!data.empty()) {
    const ssize_t n = send(fd, data.data(), data.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    data.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

// Reads until `buffer` holds `bytes` bytes.
bool Fill(int fd, std::string& buffer, size_t bytes) {
  char chunk[65536];
  while (buffer.size() < bytes) {
    const ssize_t n = recv(fd, chunk, sizeof(chunk), 0);
    if (n <= 0) return false;
    buffer.append(chunk, static_cast<size_t>(n));
  }
  return true;
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\r')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\r')) text.remove_suffix(1);
  return text;
}

FakeRegistry::Request ParseHead(std::string_view head) {
  FakeRegistry::Request request;
  const std::vector<std::string_view> lines = Split(head, '\n');
  const std::vector<std::string_view> words = Split(Trim(lines[0]), ' ');
  if (words.size() < 2) return request;
  request.method = std::string(words[0]);
  const size_t question = words[1].find('?');
  request.path = std::string(words[1].substr(0, question));
  if (question != std::string_view::npos) {
    request.query = std::string(words[1].substr(question + 1));
  }
  for (size_t i = 1; i < lines.size(); ++i) {
    const size_t colon = lines[i].find(':');
    if (colon == std::string_view::npos) continue;
    request.headers.emplace(ToLower(lines[i].substr(0, colon)), Trim(lines[i].substr(colon + 1)));
  }
  return request;
}

}  // namespace

std::string FakeRegistry::Request::Header(const std::string& name) const {
  const auto it = headers.find(name);
  return it == headers.end() ? "" : it->second;
}

std::vector<std::string> FakeRegistry::Request::Values(const std::string& name) const {
  std::vector<std::string> values;
  const auto [begin, end] = headers.equal_range(name);
  for (auto it = begin; it != end; ++it) values.push_back(it->second);
  return values;
}

std::optional<ByteRange> FakeRegistry::Request::range() const {
  const std::string header = Header("range");
  std::string_view text = header;
  if (!ConsumePrefix(&text, "bytes=")) return std::nullopt;
  const size_t dash = text.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const std::optional<uint64_t> first = ParseDecimal(text.substr(0, dash));
  const std::optional<uint64_t> last = ParseDecimal(text.substr(dash + 1));
  if (!first || !last) return std::nullopt;
  return ByteRange{*first, *last + 1};
}

FakeRegistry::FakeRegistry(const std::string& address)
    : listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  inet_pton(AF_INET, address.c_str(), &name.sin_addr);
  socklen_t length = sizeof(name);
  if (bind(listener_.get(), reinterpret_cast<sockaddr*>(&name), length) != 0 ||
      listen(listener_.get(), 128) != 0 ||
      getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&name), &length) != 0) {
    std::abort();  // a test without its server is meaningless
  }
  host_ = StrCat(address, ":", ntohs(name.sin_port));
  acceptor_ = std::thread([this] { AcceptLoop(); });
}

FakeRegistry::~FakeRegistry() {
  std::vector<std::thread> workers;
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    for (const int fd : open_) shutdown(fd, SHUT_RDWR);
  }
  shutdown(listener_.get(), SHUT_RDWR);
  acceptor_.join();
  {
    absl::MutexLock lock(&mu_);
    workers.swap(workers_);
  }
  for (std::thread& worker : workers) worker.join();
}

std::string FakeRegistry::Url(std::string_view path) const {
  return StrCat("http://", host_, path);
}

std::string FakeRegistry::BlobPath(const std::string& repository, const Digest& digest) {
  return StrCat("/v2/", repository, "/blobs/", digest.ToString());
}

Digest FakeRegistry::AddBlob(const std::string& repository, std::string bytes) {
  const Digest digest = Sha256Of(bytes);
  absl::MutexLock lock(&mu_);
  files_[BlobPath(repository, digest)] = {std::move(bytes), "application/octet-stream"};
  return digest;
}

Digest FakeRegistry::AddManifest(const std::string& repository, const std::string& tag,
                                 std::string bytes, const std::string& content_type) {
  const Digest digest = Sha256Of(bytes);
  const std::string folder = StrCat("/v2/", repository, "/manifests/");
  absl::MutexLock lock(&mu_);
  files_[folder + digest.ToString()] = {bytes, content_type};
  if (!tag.empty()) files_[folder + tag] = {std::move(bytes), content_type};
  return digest;
}

void FakeRegistry::Remove(const std::string& path) {
  absl::MutexLock lock(&mu_);
  files_.erase(path);
}

void FakeRegistry::AddFile(const std::string& path, std::string bytes) {
  absl::MutexLock lock(&mu_);
  files_[path] = {std::move(bytes), "application/octet-stream"};
}

void FakeRegistry::SetAuth(Auth auth) {
  absl::MutexLock lock(&mu_);
  auth_ = std::move(auth);
}

void FakeRegistry::AcceptToken(const std::string& token) {
  absl::MutexLock lock(&mu_);
  tokens_[token] = "";
}

void FakeRegistry::RevokeTokens() {
  absl::MutexLock lock(&mu_);
  tokens_.clear();
}

void FakeRegistry::On(const std::string& path, Behaviour behaviour) {
  absl::MutexLock lock(&mu_);
  if (behaviour.hold || behaviour.hold_after_bytes.has_value()) released_.erase(path);
  script_[path].push_back(std::move(behaviour));
}

void FakeRegistry::Release(const std::string& path) {
  absl::MutexLock lock(&mu_);
  released_.insert(path);
}

bool FakeRegistry::WaitForRequests(const std::string& path, size_t count) {
  absl::MutexLock lock(&mu_);
  const auto arrived = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return static_cast<size_t>(std::count_if(
               requests_.begin(), requests_.end(),
               [&](const Request& request) { return request.path == path; })) >= count;
  };
  return mu_.AwaitWithTimeout(absl::Condition(&arrived), absl::Seconds(20));
}

std::vector<FakeRegistry::Request> FakeRegistry::requests() const {
  absl::MutexLock lock(&mu_);
  return requests_;
}

std::vector<FakeRegistry::Request> FakeRegistry::RequestsFor(const std::string& path) const {
  std::vector<Request> found = requests();
  std::erase_if(found, [&](const Request& request) { return request.path != path; });
  return found;
}

std::vector<ByteRange> FakeRegistry::RangesAsked(const std::string& path) const {
  uint64_t size = 0;
  {
    absl::MutexLock lock(&mu_);
    const auto it = files_.find(path);
    if (it != files_.end()) size = it->second.bytes.size();
  }
  std::vector<ByteRange> ranges;
  for (const Request& request : RequestsFor(path)) {
    ranges.push_back(request.range().value_or(ByteRange{0, size}));
  }
  return ranges;
}

size_t FakeRegistry::connections() const {
  absl::MutexLock lock(&mu_);
  return connections_;
}

void FakeRegistry::AcceptLoop() {
  while (true) {
    const int fd = accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    absl::MutexLock lock(&mu_);
    if (stopping_) {
      Fd closer(fd);
      return;
    }
    ++connections_;
    open_.insert(fd);
    workers_.emplace_back([this, fd] { Serve(fd); });
  }
}

void FakeRegistry::Serve(int fd) {
  Fd owned(fd);
  std::string buffer;
  while (ServeOne(fd, buffer)) {
  }
  absl::MutexLock lock(&mu_);
  open_.erase(fd);
}

bool FakeRegistry::ServeOne(int fd, std::string& buffer) {
  size_t end = buffer.find("\r\n\r\n");
  while (end == std::string::npos) {
    if (!Fill(fd, buffer, buffer.size() + 1)) return false;
    if (buffer[0] < 'A' || buffer[0] > 'Z') return false;  // TLS, for example
    end = buffer.find("\r\n\r\n");
  }
  Request request = ParseHead(std::string_view(buffer).substr(0, end));
  buffer.erase(0, end + 4);
  const size_t length = ParseDecimal(request.Header("content-length")).value_or(0);
  Behaviour behaviour;
  {
    absl::MutexLock lock(&mu_);
    behaviour = TakeBehaviour(request.path);
  }
  if (behaviour.cut_request_after_bytes) {
    const size_t part = std::min<size_t>(length, *behaviour.cut_request_after_bytes);
    if (!Fill(fd, buffer, part)) return false;
    request.body = buffer.substr(0, part);
    absl::MutexLock lock(&mu_);
    requests_.push_back(request);
    KeepPartOfChunk(request);
    return false;
  }
  while (behaviour.read_slowly && buffer.size() < length) {
    if (!Fill(fd, buffer, std::min(length, buffer.size() + (1 << 20)))) return false;
    absl::SleepFor(absl::Milliseconds(40));
  }
  if (!Fill(fd, buffer, length)) return false;
  request.body = buffer.substr(0, length);
  buffer.erase(0, length);
  {
    absl::MutexLock lock(&mu_);
    requests_.push_back(request);
  }
  if (behaviour.close) return false;
  if (behaviour.hold && !WaitForRelease(request.path)) return false;
  if (behaviour.before) behaviour.before();
  Answer answer;
  {
    absl::MutexLock lock(&mu_);
    answer = MakeAnswer(request, behaviour.ignore_range);
  }
  return Send(fd, request, std::move(answer), behaviour);
}

FakeRegistry::Behaviour FakeRegistry::TakeBehaviour(const std::string& path) {
  std::deque<Behaviour>& script = script_[path];
  while (!script.empty() && script.front().times == 0) script.pop_front();
  if (script.empty()) return Behaviour();
  if (script.front().times > 0) --script.front().times;
  return script.front();
}

bool FakeRegistry::WaitForRelease(const std::string& path) {
  absl::MutexLock lock(&mu_);
  const auto free = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return stopping_ || released_.count(path) > 0;
  };
  mu_.Await(absl::Condition(&free));
  return !stopping_;
}

bool FakeRegistry::Send(int fd, const Request& request, Answer answer, const Behaviour& behaviour) {
  if (behaviour.status != 0) answer.status = behaviour.status;
  if (behaviour.body) answer.body = *behaviour.body;
  if (behaviour.corrupt && !answer.body.empty()) answer.body[0] ^= 1;
  if (behaviour.chunked) {
    answer.headers["transfer-encoding"] = "chunked";
  } else {
    if (answer.status != 204) answer.headers["content-length"] = StrCat(answer.body.size());
  }
  for (const auto& [name, value] : behaviour.headers) answer.headers[ToLower(name)] = value;
  std::string head = StrCat("HTTP/1.1 ", answer.status, " Scripted\r\n");
  for (const auto& [name, value] : answer.headers) StrAppend(&head, name, ": ", value, "\r\n");
  while (behaviour.slow_head) {
    if (!SendAll(fd, head)) return false;
    head = "x-more: 1\r\n";
    absl::SleepFor(absl::Milliseconds(20));
  }
  if (behaviour.cut_head) {
    SendAll(fd, head);
    return false;
  }
  head += "\r\n";
  if (!SendAll(fd, head)) return false;
  if (request.method == "HEAD" || answer.status == 204) return true;

  std::string_view body = answer.body;
  if (behaviour.cut_after_bytes) {
    SendAll(fd, body.substr(0, *behaviour.cut_after_bytes));
    return false;
  }
  if (behaviour.hold_after_bytes) {
    if (!SendAll(fd, body.substr(0, *behaviour.hold_after_bytes))) return false;
    body.remove_prefix(std::min<size_t>(body.size(), *behaviour.hold_after_bytes));
    if (!WaitForRelease(request.path)) return false;
  }
  while (behaviour.slow_body && !body.empty()) {
    if (!SendAll(fd, body.substr(0, 1))) return false;
    body.remove_prefix(1);
    absl::SleepFor(absl::Milliseconds(20));
  }
  if (!behaviour.chunked) return SendAll(fd, body);
  char size[32];
  snprintf(size, sizeof(size), "%zx\r\n", body.size());
  if (!body.empty() && !SendAll(fd, StrCat(size, body, "\r\n"))) return false;
  return SendAll(fd, "0\r\n\r\n");
}

FakeRegistry::Answer FakeRegistry::MakeAnswer(const Request& request, bool ignore_range) {
  if (request.path == "/token") return MakeToken(request);
  if (request.path.starts_with("/v2/") && !Authorized(request)) {
    const bool had_token = request.Header("authorization").starts_with("Bearer ");
    return Challenge(request, had_token ? auth_.refused_status : 401);
  }
  if (std::optional<Answer> answer = MakePushAnswer(request)) return *std::move(answer);
  Answer answer;
  const auto it = files_.find(request.path);
  if (it == files_.end()) {
    answer.status = 404;
    answer.body = R"({"errors":[{"code":"NAME_UNKNOWN","message":"not known here"}]})";
    return answer;
  }
  const File& file = it->second;
  answer.headers["content-type"] = file.content_type;
  if (features_.etags) answer.headers["etag"] = StrCat("\"", Sha256Of(file.bytes).ToString(), "\"");
  const std::optional<ByteRange> range = request.range();
  if (!range || ignore_range) {
    answer.body = file.bytes;
    return answer;
  }
  if (range->begin >= file.bytes.size()) {
    answer.status = 416;
    answer.headers["content-range"] = StrCat("bytes */", file.bytes.size());
    return answer;
  }
  const uint64_t end = std::min<uint64_t>(range->end, file.bytes.size());
  answer.status = 206;
  answer.headers["content-range"] =
      StrCat("bytes ", range->begin, "-", end - 1, "/", file.bytes.size());
  answer.body = file.bytes.substr(range->begin, end - range->begin);
  return answer;
}

bool FakeRegistry::TokenIsGood(const Request& request, const std::string& token) const {
  const auto it = tokens_.find(token);
  if (it == tokens_.end()) return false;
  if (!auth_.check_scope) return true;
  const bool reads = request.method == "GET" || request.method == "HEAD";
  const std::string scope =
      StrCat("repository%3A", Split(request.path, '/')[2], "%3A", reads ? "pull" : "pull%2Cpush");
  return it->second.find(scope) != std::string::npos;
}

bool FakeRegistry::Authorized(const Request& request) {
  std::string authorization = request.Header("authorization");
  std::string_view rest = authorization;
  switch (auth_.kind) {
    case Auth::Kind::kNone:
      return true;
    case Auth::Kind::kBasic:
      return rest == StrCat("Basic ", absl::Base64Escape(StrCat(auth_.user, ":", auth_.password)));
    case Auth::Kind::kBearer:
      return ConsumePrefix(&rest, "Bearer ") && TokenIsGood(request, std::string(rest));
  }
  return false;
}

FakeRegistry::Answer FakeRegistry::Challenge(const Request& request, int status) {
  Answer answer;
  answer.status = status;
  answer.body = R"({"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]})";
  if (auth_.kind == Auth::Kind::kBasic) {
    answer.headers["www-authenticate"] = "Basic realm=\"fake\"";
    return answer;
  }
  const std::vector<std::string_view> parts = Split(request.path, '/');
  const std::string repository = parts.size() > 3 ? std::string(parts[2]) : "none";
  answer.headers["www-authenticate"] =
      StrCat("Bearer realm=\"", auth_.realm.empty() ? Url("/token") : auth_.realm,
             "\",service=\"fake\",scope=\"repository:", repository,
             request.method == "GET" || request.method == "HEAD" ? ":pull\"" : ":pull,push\"");
  return answer;
}

FakeRegistry::Answer FakeRegistry::MakeToken(const Request& request) {
  Answer answer;
  bool allowed = auth_.user.empty();
  if (request.method == "POST") {
    allowed =
        !auth_.identity_token.empty() &&
        request.body.find(StrCat("refresh_token=", auth_.identity_token)) != std::string::npos;
  } else if (!auth_.user.empty()) {
    allowed = request.Header("authorization") ==
              StrCat("Basic ", absl::Base64Escape(StrCat(auth_.user, ":", auth_.password)));
  }
  if (!allowed) {
    answer.status = 401;
    return answer;
  }
  const std::string token = StrCat("token-", ++tokens_issued_);
  tokens_[token] = request.method == "POST" ? request.body : request.query;
  answer.headers["content-type"] = "application/json";
  answer.body = StrCat("{\"token\":\"", token, "\",\"expires_in\":", auth_.expires_in, "}");
  return answer;
}

}  // namespace imagefs
