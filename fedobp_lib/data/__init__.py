"""Images, who has them, and in which order they are seen.

`registry` names the data sets and `official` reads their files, `download` fetches them once,
`datasets` loads them as `images.ImageData`; `partition` splits them over clients, `clients` holds a
client's samples and draws its batches.
"""
