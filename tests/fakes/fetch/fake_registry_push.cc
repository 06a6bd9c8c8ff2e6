// SPDX-License-Identifier: Apache-2.0
// Pushes and referrers of FakeRegistry.
#include <algorithm>

#include "base/json.h"
#include "base/text.h"
#include "tests/fakes/fetch/fake_registry.h"

namespace imagefs {
namespace {

constexpr char kIndexType[] = "application/vnd.oci.image.index.v1+json";

std::string Decode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      out.push_back(static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16)));
      i += 2;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

std::string QueryValue(const std::string& query, std::string_view name) {
  for (std::string_view part : Split(query, '&')) {
    if (ConsumePrefix(&part, name) && ConsumePrefix(&part, "=")) return Decode(part);
  }
  return "";
}

// Returns the text between "/v2/" and `part`; "" if the path does not match.
std::string RepositoryOf(const std::string& path, std::string_view part) {
  const size_t at = path.find(part);
  if (!path.starts_with("/v2/") || at == std::string::npos) return "";
  return path.substr(4, at - 4);
}

}  // namespace

void FakeRegistry::SetFeatures(Features features) {
  absl::MutexLock lock(&mu_);
  features_ = std::move(features);
}

void FakeRegistry::AddReferrer(const std::string& repository, const Digest& subject,
                               std::string entry) {
  absl::MutexLock lock(&mu_);
  referrers_[StrCat("/v2/", repository, "/referrers/", subject.ToString())].push_back(
      std::move(entry));
}

void FakeRegistry::AddUpload(const std::string& repository, const std::string& id) {
  absl::MutexLock lock(&mu_);
  uploads_[StrCat("/v2/", repository, "/blobs/uploads/", id)] = {repository, ""};
}

void FakeRegistry::ForgetUploads() {
  absl::MutexLock lock(&mu_);
  uploads_.clear();
}

size_t FakeRegistry::uploads() const {
  absl::MutexLock lock(&mu_);
  return uploads_.size();
}

std::optional<std::string> FakeRegistry::Stored(const std::string& path) const {
  absl::MutexLock lock(&mu_);
  const auto it = files_.find(path);
  if (it == files_.end()) return std::nullopt;
  return it->second.bytes;
}

std::string FakeRegistry::UploadPath(const std::string& repository, int n) {
  return StrCat("/v2/", repository, "/blobs/uploads/", n);
}

std::string FakeRegistry::Location(const std::string& path) const {
  const std::string origin =
      features_.absolute_location ? StrCat("http://", host_) : features_.upload_origin;
  return StrCat(origin, path, "?state=secret%2Fstate");
}

std::optional<FakeRegistry::Answer> FakeRegistry::MakePushAnswer(const Request& request) {
  const bool reads = request.method == "GET" || request.method == "HEAD";
  std::string repository = RepositoryOf(request.path, "/blobs/uploads/");
  if (!repository.empty()) {
    if (request.path.ends_with("/uploads/")) return BeginUpload(request, repository);
    return ContinueUpload(request, repository);
  }
  repository = RepositoryOf(request.path, "/manifests/");
  if (!repository.empty() && !reads) return TakeManifest(request, repository);
  repository = RepositoryOf(request.path, "/referrers/");
  if (!repository.empty() && features_.referrers) return ListReferrers(request);
  return std::nullopt;
}

FakeRegistry::Answer FakeRegistry::BeginUpload(const Request& request,
                                               const std::string& repository) {
  Answer answer;
  const std::string mount = QueryValue(request.query, "mount");
  const auto from =
      files_.find(StrCat("/v2/", QueryValue(request.query, "from"), "/blobs/", mount));
  if (!mount.empty() && features_.mounts && from != files_.end()) {
    files_[StrCat("/v2/", repository, "/blobs/", mount)] = from->second;
    answer.status = 201;
    return answer;
  }
  const std::string path = UploadPath(repository, ++uploads_begun_);
  if (features_.upload_origin.empty()) uploads_[path] = {repository, ""};
  answer.status = 202;
  answer.headers["location"] = Location(path);
  if (features_.chunk_min_bytes > 0) {
    answer.headers["oci-chunk-min-length"] = StrCat(features_.chunk_min_bytes);
  }
  return answer;
}

FakeRegistry::Answer FakeRegistry::ContinueUpload(const Request& request,
                                                  const std::string& repository) {
  Answer answer;
  const auto it = uploads_.find(request.path);
  // Upload URLs carry state in their query, which clients must send back.
  if (it == uploads_.end() || QueryValue(request.query, "state") != "secret/state") {
    answer.status = 404;
    answer.body = R"({"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"no such upload"}]})";
    return answer;
  }
  Upload& upload = it->second;
  if (request.method == "DELETE") {
    uploads_.erase(it);
    answer.status = 204;
    return answer;
  }
  answer.headers["location"] = Location(request.path);
  if (request.method == "PATCH") {
    const std::string range = request.Header("content-range");
    const std::string expected =
        StrCat(upload.bytes.size(), "-", upload.bytes.size() + request.body.size() - 1);
    answer.status = range == expected || range.empty() ? 202 : 416;
    if (answer.status == 202) upload.bytes += request.body;
  } else if (request.method == "GET") {
    answer.status = 204;
  }
  if (request.method != "PUT") {
    answer.headers["range"] = StrCat("0-", std::max<size_t>(upload.bytes.size(), 1) - 1);
    return answer;
  }
  const std::string bytes = upload.bytes + request.body;
  const Digest digest = Sha256Of(bytes);
  if (QueryValue(request.query, "digest") != digest.ToString()) {
    answer.status = 400;
    answer.body = R"({"errors":[{"code":"DIGEST_INVALID","message":"digest did not match"}]})";
    return answer;
  }
  uploads_.erase(it);
  files_[BlobPath(repository, digest)] = {bytes, "application/octet-stream"};
  answer.status = 201;
  answer.headers["location"] = BlobPath(repository, digest);
  answer.headers["docker-content-digest"] = digest.ToString();
  return answer;
}

void FakeRegistry::KeepPartOfChunk(const Request& request) {
  const auto it = uploads_.find(request.path);
  if (request.method == "PATCH" && it != uploads_.end()) it->second.bytes += request.body;
}

int FakeRegistry::RefusalByCondition(const Request& request) const {
  const std::string match = request.Header("if-match");
  const bool only_new = request.Header("if-none-match") == "*";
  if (features_.no_conditions != 0 && (only_new || !match.empty())) return features_.no_conditions;
  if (!features_.conditions) return 0;
  const auto it = files_.find(request.path);
  const bool exists = it != files_.end();
  const bool other =
      !match.empty() &&
      (!exists || match != StrCat("\"", Sha256Of(it->second.bytes).ToString(), "\""));
  return other || (only_new && exists) ? 412 : 0;
}

FakeRegistry::Answer FakeRegistry::TakeManifest(const Request& request,
                                                const std::string& repository) {
  Answer answer;
  if (const int refusal = RefusalByCondition(request); refusal != 0) {
    answer.status = refusal;
    return answer;
  }
  answer.status = 201;
  const Digest digest = Sha256Of(request.body);
  const std::string folder = StrCat("/v2/", repository, "/manifests/");
  const File file{request.body, request.Header("content-type")};
  files_[request.path] = file;
  files_[folder + digest.ToString()] = file;
  answer.headers["docker-content-digest"] = digest.ToString();
  const absl::StatusOr<Json> json = Json::Parse(request.body);
  if (!json.ok() || !(*json)["subject"].is_object() || !features_.lists_itself) return answer;
  const std::string subject = (*json)["subject"].StringOr("digest");
  answer.headers["oci-subject"] = subject;
  JsonWriter entry;
  entry.BeginObject().Member("mediaType", file.content_type);
  entry.Member("digest", digest.ToString()).Member("size", uint64_t{request.body.size()});
  entry.Member("artifactType", json->StringOr("artifactType"));
  if ((*json)["annotations"].exists()) {
    entry.Key("annotations").Raw((*json)["annotations"].Dump());
  }
  entry.EndObject();
  referrers_[StrCat("/v2/", repository, "/referrers/", subject)].push_back(entry.Take());
  return answer;
}

FakeRegistry::Answer FakeRegistry::ListReferrers(const Request& request) {
  Answer answer;
  const std::string type = QueryValue(request.query, "artifactType");
  std::vector<std::string> entries;
  for (const std::string& entry : referrers_[request.path]) {
    const absl::StatusOr<Json> json = Json::Parse(entry);
    const bool fits =
        type.empty() || !features_.filters || !json.ok() || json->StringOr("artifactType") == type;
    if (fits) entries.push_back(entry);
  }
  const size_t begin = ParseDecimal(QueryValue(request.query, "from")).value_or(0);
  const size_t end = std::min(entries.size(), begin + features_.page_size);
  JsonWriter index;
  index.BeginObject().Member("schemaVersion", int64_t{2}).Member("mediaType", kIndexType);
  index.Key("manifests").BeginArray();
  for (size_t i = begin; i < end; ++i) index.Raw(entries[i]);
  index.EndArray().EndObject();
  answer.body = index.Take();
  answer.headers["content-type"] = kIndexType;
  if (!type.empty() && features_.filters) answer.headers["oci-filters-applied"] = "artifactType";
  if (end < entries.size()) {
    answer.headers["link"] = StrCat("<", request.path, "?from=", end,
                                    type.empty() ? "" : "&artifactType=", type, ">; rel=\"next\"");
  }
  return answer;
}

}  // namespace imagefs
